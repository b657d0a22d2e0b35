"""A socket that tasks can wait for, through the reactor where there is one."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

import trio

from linkerd_proxy.io.reactor import CAREFUL, HANGUP, INPUT, OUTPUT, Handler, Reactor, current_reactor

__all__ = ["WatchedSocket"]

_Socket: TypeAlias = socket.socket  # where an argument is called socket

_INET = (socket.AF_INET, socket.AF_INET6)


class WatchedSocket:
    """A non-blocking stream socket, registered with the reactor for its life.

    Args:
        socket: Owned from now on, and made non-blocking.

    Raises:
        OSError: if the system can't watch one more socket.
    """

    __slots__ = (
        "_careful",
        "_fd",
        "_hangup",
        "_hung_up",
        "_lent",
        "_reactor",
        "_readable",
        "_reader",
        "_stops_short",
        "_writer",
        "socket",
    )

    def __init__(self, socket: socket.socket) -> None:
        if socket.gettimeout() != 0:
            socket.setblocking(False)
        self.socket: _Socket = socket
        self._fd = socket.fileno()
        self._reader: trio.lowlevel.Task | Literal[True] | None = None
        """The task that waits to receive; True while one is busy without waiting."""
        self._writer: trio.lowlevel.Task | Literal[True] | None = None
        self._readable = True
        """Whether a receive may find something: False only when the socket is known to be drained."""
        self._stops_short = socket.family not in _INET
        self._careful = self._stops_short
        """Whether the end, an error or more data may follow a short read without a further event."""
        self._hung_up = False
        self._hangup: Callable[[], None] | None = None
        self._lent: Callable[[], None] | None = None
        self._reactor: Reactor | None = current_reactor()
        if self._reactor is not None:
            self._reactor.register(self._fd, self._on_events)

    # --- waiting -------------------------------------------------------------------------------

    def _wait_readable(self) -> Awaitable[None]:
        """Return what to await until a receive may find something; then it is for the caller to clear ``_reader``."""
        if self._reactor is None:
            return self._wait_readable_without_reactor()
        self._reader = trio.lowlevel.current_task()
        return trio.lowlevel.wait_task_rescheduled(self._stop_reading)  # noqa: ASYNC105  # it is awaited by the caller

    async def _wait_readable_without_reactor(self) -> None:
        self._reader = True
        try:
            await trio.lowlevel.wait_readable(self.socket)
        finally:
            self._reader = None
        self._readable = True

    def _stop_reading(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def _wait_until_writable(self) -> None:
        # An edge tells of a change only, so ask for the state first.
        self._check_open()
        while not _poll(self._fd, _POLLOUT):
            await self._wait_writable()
            self._check_open()

    async def _wait_writable(self) -> None:
        if self._reactor is None:
            await trio.lowlevel.wait_writable(self.socket)
        else:
            self._writer = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._stop_writing)

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

    def is_quiet(self) -> bool:
        """Whether the peer, from whom nothing is expected, has sent neither data nor an end. Never waits."""
        return self._fd >= 0 and not _poll(self._fd, _POLLIN)

    def look_again(self) -> None:
        """Let the next receive try before it waits: something may have come during a long computation.

        Without it that is found by the next poll, a pass through Trio's loop later, which costs thirty tries.
        """
        self._readable = True

    # --- closing -------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the socket at once, waking whoever waits on it. A second call changes nothing."""
        fd = self._fd
        if fd < 0:
            return
        self._fd = -1
        self._readable = True  # nobody waits from now on: to receive fails at once
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

    def close_nowait(self) -> None:
        """Do what :meth:`close` does: the name by which ``core.contain`` knows a stream that closes without waiting."""
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

    def _check_open(self) -> None:
        if self._fd < 0:
            raise trio.ClosedResourceError("this stream was closed")

    def broken(self, error: OSError) -> trio.BrokenResourceError | trio.ClosedResourceError:
        """Return what to raise for a failed system call."""
        if self._fd < 0:
            return trio.ClosedResourceError("this stream was closed")
        return trio.BrokenResourceError(f"connection broken: {error.strerror or error}")

    # --- lending -------------------------------------------------------------------------------

    def lend(self, handler: Handler, closed: Callable[[], None]) -> bool:
        """Let ``handler`` have the socket's events instead of tasks that wait, until :meth:`reclaim`.

        Meanwhile receiving and sending raise ``trio.BusyResourceError``, and :meth:`close` calls ``closed``.

        Returns:
            Whether it was lent; never without epoll.

        Raises:
            trio.ClosedResourceError: if this side closed it.
            trio.BusyResourceError: if a task uses it.
        """
        if self._reactor is None:
            return False
        self._check_open()
        if self._reader is not None or self._writer is not None:
            raise trio.BusyResourceError("another task is using this stream")
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


_POLLIN, _POLLOUT = getattr(select, "POLLIN", 1), getattr(select, "POLLOUT", 4)


def _poll(fd: int, interest: int) -> bool:
    """Whether a socket is ready now: to try, and to catch BlockingIOError, takes three times as long."""
    if not hasattr(select, "poll"):  # Windows
        readers, writers = ([fd], []) if interest == _POLLIN else ([], [fd])
        return any(select.select(readers, writers, [], 0))
    poll = select.poll()
    poll.register(fd, interest)
    return bool(poll.poll(0))
