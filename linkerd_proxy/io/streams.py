"""Sockets as Trio streams that try the system call first and wait only if it would block."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Literal, TypeAlias

import trio

from linkerd_proxy.io.reactor import CAREFUL, HANGUP, INPUT, OUTPUT, Handler, Reactor, current_reactor

__all__ = ["Data", "SocketStream", "abort", "abort_nowait", "watch_hangup"]

Data: TypeAlias = bytes | bytearray | memoryview

_BUDGET = 32  # calls that need not wait, per stream, before others get a turn: about 0.3 ms of work
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close() sends RST


class SocketStream(trio.abc.HalfCloseableStream):
    """A connected stream socket.

    A call that need not wait is not a checkpoint, unlike Trio's own streams: after ``budget`` such calls in a row the
    stream yields to other tasks, and cancellation is delivered there and at every wait. With ``budget=0`` every call is
    a checkpoint, as Trio's rules ask.

    Args:
        socket: Connected, of type ``SOCK_STREAM``. The stream owns it and makes it non-blocking.
        budget: How many calls in a row may go without a checkpoint.

    Raises:
        OSError: if the system can't watch one more socket.
    """

    __slots__ = (
        "_allowance",
        "_budget",
        "_careful",
        "_eof_sent",
        "_fd",
        "_hangup",
        "_hung_up",
        "_lent",
        "_reactor",
        "_readable",
        "_reader",
        "_recv",
        "_send",
        "_stops_short",
        "_writer",
        "bytes_received",
        "bytes_sent",
        "socket",
    )

    def __init__(self, socket: socket.socket, *, budget: int = _BUDGET) -> None:
        if socket.gettimeout() != 0:
            socket.setblocking(False)
        self.socket = socket
        self._fd = socket.fileno()
        self.bytes_received = 0
        """How many bytes came in, also those that a relay moved."""
        self.bytes_sent = 0
        """How many bytes the system took, also those that a relay moved."""
        self._recv = socket.recv
        self._send = socket.send
        self._budget = self._allowance = budget
        self._reader: trio.lowlevel.Task | Literal[True] | None = None
        """The task that waits to receive; True while one is busy without waiting."""
        self._writer: trio.lowlevel.Task | Literal[True] | None = None
        self._readable = True
        """Whether a receive may find something: False only when the socket is known to be drained."""
        self._stops_short = socket.family not in _INET
        self._careful = self._stops_short
        """Whether the end, an error or more data may follow a short read without a further event."""
        self._eof_sent = False
        self._hung_up = False
        self._hangup: Callable[[], None] | None = None
        self._lent: Callable[[], None] | None = None
        self._reactor: Reactor | None = current_reactor()
        if self._reactor is not None:
            self._reactor.register(self._fd, self._on_events)

    # --- receiving -----------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = 65536) -> bytes:
        """Return what has arrived, at most ``max_bytes``, waiting for it if need be; ``b""`` at the end.

        Raises:
            trio.BrokenResourceError: if the peer reset the connection.
            trio.ClosedResourceError: if this side closed it, also while waiting.
            trio.BusyResourceError: if another task is receiving.

        Cancelled while waiting, it has received nothing.
        """
        if max_bytes is None:
            max_bytes = 65536
        if self._readable and self._allowance > 0 and self._reader is None:
            self._allowance -= 1
            try:
                data = self._recv(max_bytes)
            except BlockingIOError:
                self._readable = False
                self._careful = self._stops_short
            except OSError as error:
                raise self.broken(error) from error
            else:
                size = len(data)
                self.bytes_received += size
                if size < max_bytes and not self._careful:
                    self._readable = False
                return data
        return await self._receive_slowly(max_bytes)

    async def _receive_slowly(self, max_bytes: int) -> bytes:
        if max_bytes < 1:
            await trio.lowlevel.checkpoint()
            raise ValueError("max_bytes must be at least 1")
        self._check_open()
        if self._reader is not None:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._reader = True
        try:
            if self._allowance <= 0:
                await trio.lowlevel.checkpoint()
                self._allowance = self._budget
            while True:
                if not self._readable:
                    await self._wait_readable()
                self._check_open()
                try:
                    data = self._recv(max_bytes)
                except BlockingIOError:
                    self._readable = False
                    self._careful = self._stops_short
                    continue
                self.bytes_received += len(data)
                if len(data) < max_bytes and not self._careful:
                    self._readable = False
                return data
        except OSError as error:
            raise self.broken(error) from error
        finally:
            self._reader = None

    async def _wait_readable(self) -> None:
        if self._reactor is None:
            await trio.lowlevel.wait_readable(self.socket)
            self._readable = True
        else:
            self._reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._stop_reading)
        self._allowance = self._budget

    def _stop_reading(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    # --- sending -------------------------------------------------------------------------------

    async def send_all(self, data: Data) -> None:
        """Hand all of ``data`` to the system, waiting for room if need be.

        Raises:
            trio.BrokenResourceError: if the peer reset the connection or reads no more.
            trio.ClosedResourceError: if this side closed it or sent its end, also while waiting.
            trio.BusyResourceError: if another task is sending.

        Cancelled while waiting, it has sent an unknown part: the stream is good for nothing but closing.
        """
        if self._allowance > 0 and self._writer is None and not self._eof_sent and data:
            self._allowance -= 1
            try:
                sent = self._send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise self.broken(error) from error
            self.bytes_sent += sent
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        await self._send_slowly(data)

    async def _send_slowly(self, data: Data) -> None:
        self._check_sendable()
        self._writer = True
        try:
            if self._allowance <= 0 or not data:
                await trio.lowlevel.checkpoint()
                self._allowance = self._budget
            with memoryview(data) as view:
                await self._send_rest(view)
        except OSError as error:
            raise self.broken(error) from error
        finally:
            self._writer = None

    async def _send_rest(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            self._check_open()
            try:
                sent = self._send(view[done:])
                done += sent
                self.bytes_sent += sent
            except BlockingIOError:
                await self._wait_writable()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the system would take at least one byte. Raises as :meth:`send_all` does."""
        self._check_sendable()
        self._writer = True
        try:
            await trio.lowlevel.checkpoint()
            await self._wait_until_writable()
        finally:
            self._writer = None

    async def _wait_until_writable(self) -> None:
        # An edge tells of a change only, so ask for the state first.
        self._check_open()
        while not _poll_writable(self.socket):
            await self._wait_writable()
            self._check_open()

    async def _wait_writable(self) -> None:
        if self._reactor is None:
            await trio.lowlevel.wait_writable(self.socket)
        else:
            self._writer = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._stop_writing)
        self._allowance = self._budget

    def _stop_writing(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def wait_connected(self) -> None:
        """Wait until the connection that was begun with ``connect_ex`` stands.

        Raises:
            OSError: why it could not be made.
        """
        self._writer = True
        try:
            await self._wait_until_writable()
        finally:
            self._writer = None
        if error := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))

    # --- ending --------------------------------------------------------------------------------

    async def send_eof(self) -> None:
        """Send the end of what this side has to say; receiving goes on. A second call changes nothing.

        Raises as :meth:`send_all` does.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        if self._writer is not None:
            raise trio.BusyResourceError("another task is sending on this stream")
        self.send_eof_nowait()

    def send_eof_nowait(self) -> None:
        """Send the end at once, without a checkpoint."""
        if self._eof_sent:
            return
        self._eof_sent = True
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self.broken(error) from error

    async def aclose(self) -> None:
        """Close the socket, waking whoever waits on it with ``trio.ClosedResourceError``; then a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close the socket at once. A second call changes nothing."""
        fd = self._fd
        if fd < 0:
            return
        self._fd = -1
        if self._reactor is None:
            trio.lowlevel.notify_closing(self.socket)
        else:
            self._reactor.unregister(fd)
            self._wake_reader()
            self._wake_writer()
        self._hangup = None
        self.socket.close()
        if self._lent is not None:
            self._lent()

    def abort(self) -> None:
        """Close the socket with a reset, so that the peer can't take what it got for the whole."""
        if self._fd >= 0:
            with suppress(OSError):  # some systems refuse it on a connection that is broken already
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close()

    def fileno(self) -> int:
        """Return the descriptor, or -1 once closed."""
        return self._fd

    @property
    def stops_short(self) -> bool:
        """Whether a read may return less than there is: a Unix socket's does where descriptors were passed."""
        return self._stops_short

    @property
    def closed(self) -> bool:
        """Whether this side closed it."""
        return self._fd < 0

    # --- lending -------------------------------------------------------------------------------

    def lend(self, handler: Handler, closed: Callable[[], None]) -> bool:
        """Let ``handler`` have the socket's events instead of tasks that wait, until :meth:`reclaim`.

        Meanwhile receiving and sending raise ``trio.BusyResourceError``, and :meth:`close` calls ``closed``.

        Returns:
            Whether it was lent; never without epoll.

        Raises:
            trio.ClosedResourceError: if this side closed it or sent its end.
            trio.BusyResourceError: if a task uses it.
        """
        if self._reactor is None:
            return False
        self._check_sendable()
        if self._reader is not None:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._reader = self._writer = True
        self._lent = closed
        self._hangup = None
        self._reactor.handlers[self._fd] = handler
        return True

    def reclaim(self) -> None:
        """Take the socket's events back, if the stream is not closed."""
        self._reader = self._writer = self._lent = None
        if self._fd >= 0 and self._reactor is not None:
            self._reactor.handlers[self._fd] = self._on_events
        self._readable = self._careful = True  # what happened meanwhile is unknown

    # --- events --------------------------------------------------------------------------------

    def watch_hangup(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback`` once when the peer resets the connection or both directions have ended; None stops that.

        For giving up work that nobody waits for any more. It is called at once if that has happened already. It must
        neither block nor raise. Without epoll it is never called.
        """
        if callback is not None and self._hung_up:
            callback()
        else:
            self._hangup = callback

    def _on_events(self, mask: int) -> None:
        if mask & INPUT:
            self._readable = True
            if mask & CAREFUL:
                self._careful = True
            self._wake_reader()
        if mask & OUTPUT:
            self._wake_writer()
        if mask & HANGUP:
            self._hung_up = True
            callback, self._hangup = self._hangup, None
            if callback is not None:
                callback()

    def _wake_reader(self) -> None:
        task = self._reader
        if task is not None and task is not True:
            self._reader = True
            self._wake(task)

    def _wake_writer(self) -> None:
        task = self._writer
        if task is not None and task is not True:
            self._writer = True
            self._wake(task)

    def _wake(self, task: trio.lowlevel.Task) -> None:
        trio.lowlevel.reschedule(task)
        if self._reactor is not None:
            self._reactor.woke = True

    # --- errors --------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._fd < 0:
            raise trio.ClosedResourceError("this stream was closed")

    def _check_sendable(self) -> None:
        self._check_open()
        if self._eof_sent:
            raise trio.ClosedResourceError("this stream's end was sent already")
        if self._writer is not None:
            raise trio.BusyResourceError("another task is sending on this stream")

    def broken(self, error: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
        """Return what to raise for a failed system call."""
        if self._fd < 0:
            return trio.ClosedResourceError("this stream was closed")
        return trio.BrokenResourceError(f"connection broken: {error.strerror or error}")

    def __repr__(self) -> str:
        if self._fd < 0:
            return "<SocketStream closed>"
        state = "sent its end" if self._eof_sent else "open"
        try:
            return f"<SocketStream {state}, from {self.socket.getsockname()} to {self.socket.getpeername()}>"
        except OSError:
            return f"<SocketStream {state}, not connected>"


_INET = (socket.AF_INET, socket.AF_INET6)


def _poll_writable(sock: socket.socket) -> bool:
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select((), (sock,), (), 0)[1])
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    return bool(poll.poll(0))


def abort_nowait(stream: trio.abc.AsyncResource) -> None:
    """Call the stream's own ``abort()`` where it has one; nothing happens where it has not."""
    reset: Callable[[], None] | None = getattr(stream, "abort", None)
    if reset is not None:
        reset()


async def abort(stream: trio.abc.AsyncResource) -> None:
    """Close any stream so that the peer sees a failure, as far as the stream can say so. Never waits for the peer."""
    abort_nowait(stream)
    await trio.aclose_forcefully(stream)


def watch_hangup(stream: trio.abc.Stream, callback: Callable[[], None] | None) -> None:
    """Call :meth:`SocketStream.watch_hangup` where the stream has it; nothing happens where it has not."""
    watch: Callable[[Callable[[], None] | None], None] | None = getattr(stream, "watch_hangup", None)
    if watch is not None:
        watch(callback)
