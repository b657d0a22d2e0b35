"""Sockets as Trio streams that try the system call first and wait only if it would block."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

import trio

from linkerd_proxy.io.watched import WatchedSocket

__all__ = ["Data", "SocketStream", "abort", "abort_nowait", "has_unread", "send_now_of", "watch_hangup"]

Data: TypeAlias = bytes | bytearray | memoryview

_BUDGET = 32  # calls that need not wait, per stream, before others get a turn: about 0.3 ms of work
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds: close() sends RST


class SocketStream(WatchedSocket, trio.abc.HalfCloseableStream):
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

    __slots__ = ("_allowance", "_budget", "_eof_sent", "_recv", "_send", "bytes_received", "bytes_sent")

    def __init__(self, socket: socket.socket, *, budget: int = _BUDGET) -> None:
        super().__init__(socket)
        self.bytes_received: int = 0
        """How many bytes came in, also those that a relay moved."""
        self.bytes_sent: int = 0
        """How many bytes the system took, also those that a relay moved."""
        self._recv = socket.recv
        self._send = socket.send
        self._budget = self._allowance = budget
        self._eof_sent = False

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
        self._allowance -= 1
        if self._allowance < 0 or self._reader is not None or max_bytes < 1:
            await self._before_receiving(max_bytes)
        while True:
            if not self._readable:
                # In this very frame, not in one called from here: each frame that a wait goes through costs every time.
                await self._wait_readable()
                self._reader = None
                self._allowance = self._budget
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

    async def _before_receiving(self, max_bytes: int) -> None:
        """Raise, or let other tasks run and be free to make as many calls again."""
        if max_bytes < 1:
            await trio.lowlevel.checkpoint()
            raise ValueError("max_bytes must be at least 1")
        self._check_open()
        if self._reader is not None:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._reader = True
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self._reader = None
        self._allowance = self._budget

    # --- sending -------------------------------------------------------------------------------

    async def send_all(self, data: Data) -> None:
        """Hand all of ``data`` to the system, waiting for room if need be.

        Raises:
            trio.BrokenResourceError: if the peer reset the connection or reads no more.
            trio.ClosedResourceError: if this side closed it or sent its end, also while waiting.
            trio.BusyResourceError: if another task is sending.

        Cancelled while waiting, it has sent an unknown part: the stream is good for nothing but closing.
        """
        rest = self.send_now(data)
        if rest is not None:
            await rest

    def send_now(self, data: Data) -> Awaitable[None] | None:
        """Send what of ``data`` can be sent without waiting: None if that was all, or what to await until it is.

        For who sends often: what need not wait needs no coroutine, and no deadline. Raises as :meth:`send_all`, which
        also says what it is to cancel the rest.
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
                return None
            data = memoryview(data)[sent:]
        return self._send_slowly(data)

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
                self._allowance = self._budget

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the system would take at least one byte. Raises as :meth:`send_all` does."""
        self._check_sendable()
        self._writer = True
        try:
            await trio.lowlevel.checkpoint()
            await self._wait_until_writable()
        finally:
            self._writer = None

    # --- ending --------------------------------------------------------------------------------

    async def send_eof(self) -> None:
        """Send the end of what this side has to say; receiving goes on. A second call changes nothing.

        Raises as :meth:`send_all` does.
        """
        await trio.lowlevel.checkpoint()
        self._check_open()
        if self._writer is not None:
            raise trio.BusyResourceError("another task is sending on this stream")
        try:
            self.shut()
        except OSError as error:
            raise self.broken(error) from error

    def shut(self) -> None:
        """Send the end at once. A second call changes nothing. Raises OSError if there is no connection any more."""
        if not self._eof_sent:
            self._eof_sent = True
            self.socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Close the socket, waking whoever waits on it with ``trio.ClosedResourceError``; then a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Close the socket with a reset, so that the peer can't take what it got for the whole."""
        if self._fd >= 0:
            with suppress(OSError):  # some systems refuse it on a connection that is broken already
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close()

    # --- errors --------------------------------------------------------------------------------

    def _check_sendable(self) -> None:
        self._check_open()
        if self._eof_sent:
            raise trio.ClosedResourceError("this stream's end was sent already")
        if self._writer is not None:
            raise trio.BusyResourceError("another task is sending on this stream")

    def __repr__(self) -> str:
        if self._fd < 0:
            return "<SocketStream closed>"
        state = "sent its end" if self._eof_sent else "open"
        try:
            return f"<SocketStream {state}, from {self.socket.getsockname()} to {self.socket.getpeername()}>"
        except OSError:
            return f"<SocketStream {state}, not connected>"


def abort_nowait(stream: trio.abc.AsyncResource) -> None:
    """Call the stream's own ``abort()`` where it has one; nothing happens where it has not."""
    reset: Callable[[], None] | None = getattr(stream, "abort", None)
    if reset is not None:
        reset()


async def abort(stream: trio.abc.AsyncResource) -> None:
    """Close any stream so that the peer sees a failure, as far as the stream can say so. Never waits for the peer."""
    abort_nowait(stream)
    await trio.aclose_forcefully(stream)


def send_now_of(stream: trio.abc.SendStream) -> Callable[[Data], Awaitable[None] | None]:
    """Return the stream's own ``send_now()``, or what does the same with one that has none, by waiting each time."""
    send_now: Callable[[Data], Awaitable[None] | None] = getattr(stream, "send_now", stream.send_all)
    return send_now


def watch_hangup(stream: trio.abc.Stream, callback: Callable[[], None] | None) -> None:
    """Call :meth:`~linkerd_proxy.io.watched.WatchedSocket.watch_hangup` where the stream has it, or else nothing."""
    watch: Callable[[Callable[[], None] | None], None] | None = getattr(stream, "watch_hangup", None)
    if watch is not None:
        watch(callback)


def has_unread(stream: trio.abc.Stream) -> bool:
    """Whether bytes wait in the socket under a stream, of TLS too, that nobody has read. Never waits.

    An end is none. Where there is no socket underneath: False.
    """
    under: object = stream
    while under is not None and not isinstance(getattr(under, "socket", None), socket.socket):
        under = getattr(under, "stream", None)
    try:
        return under is not None and bool(under.socket.recv(1, socket.MSG_PEEK))  # type: ignore[attr-defined]
    except OSError:  # nothing is there, or the connection is broken
        return False
