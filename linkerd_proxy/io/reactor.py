"""One edge-triggered epoll per Trio run, so that a socket is registered once for its life.

Trio's own ``wait_readable`` costs an ``epoll_ctl`` and a task switch per wait. Here one system task waits for all
sockets at once and hands each event to a plain function: a stream wakes the task that waits for it, a relay moves
its bytes on the spot and wakes nobody.
"""

from __future__ import annotations

import logging
import os
import select
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import trio

__all__ = ["Handler", "Reactor", "ReactorStatistics", "current_reactor"]

logger: logging.Logger = logging.getLogger("linkerd_proxy.io")

Handler: TypeAlias = Callable[[int], None]
"""Takes the event mask of one socket. It must neither block nor raise, and must close no descriptor."""

if TYPE_CHECKING or hasattr(select, "epoll"):
    INPUT = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
    OUTPUT = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
    # After one of these, a short read no longer means "drained": the end or an error may follow without a new edge,
    # and a read stops short at an urgent byte although more data follows it.
    CAREFUL = select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
    HANGUP = select.EPOLLHUP | select.EPOLLERR
    _INTEREST = select.EPOLLIN | select.EPOLLOUT | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
else:
    INPUT = OUTPUT = CAREFUL = HANGUP = _INTEREST = 0

_enabled = sys.platform == "linux" and hasattr(select, "epoll")  # tests switch it off to try the portable way

_MAX_EVENTS = 256
_MAX_AGAIN = 8  # deferred callbacks a turn: bulk flows move a megabyte or so each time
_MAX_ROUNDS = 4  # polls without letting other tasks run, while events are handled by callbacks alone


@dataclass(slots=True)
class ReactorStatistics:
    """What a reactor did so far, and what it holds now."""

    registered: int = 0
    events: int = 0
    waits: int = 0
    spliced_bytes: int = 0


class Reactor:
    """Waits for all sockets of a Trio run and hands out their events."""

    __slots__ = ("_again", "_alarm", "_asleep", "_epoll", "_fd", "counts", "handlers", "scratch", "woke")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._fd = self._epoll.fileno()
        self._alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # rung when there is work though no socket stirs
        self._epoll.register(self._alarm, select.EPOLLIN | select.EPOLLET)
        self._asleep = False
        self._again: deque[Callable[[], None]] = deque()
        self.handlers: dict[int, Handler] = {}
        self.counts: ReactorStatistics = ReactorStatistics()
        self.woke: bool = False
        """Set by a handler that woke a task, so that the tasks run before the next poll."""
        self.scratch: memoryview = memoryview(bytearray(65536))
        """For callbacks to read into: they never interleave, so one buffer serves all."""

    def register(self, fd: int, handler: Handler) -> None:
        """Watch a socket until :meth:`unregister`; what it is ready for now is reported first.

        Raises:
            OSError: if the system has no room for one more (``fs.epoll.max_user_watches``).
        """
        self._epoll.register(fd, _INTEREST)
        self.handlers[fd] = handler

    def unregister(self, fd: int) -> None:
        """Forget a socket. Call it before the descriptor is closed: a copy in a forked child keeps it reporting."""
        if self.handlers.pop(fd, None) is not None and not self._epoll.closed:
            try:
                self._epoll.unregister(fd)
            except OSError:  # somebody closed it behind our back: then the kernel has forgotten it already
                logger.debug("descriptor %d was closed before it was unregistered", fd)

    def call_again(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after the next poll: for work that has had its share of this turn."""
        self._again.append(callback)
        if self._asleep:
            self._asleep = False
            os.eventfd_write(self._alarm, 1)

    def statistics(self) -> ReactorStatistics:
        """Return what the reactor did so far (a live object)."""
        self.counts.registered = len(self.handlers)
        return self.counts

    async def run(self) -> None:
        """Wait for events and hand them out, for ever. Runs as a system task, so nothing may escape."""
        try:
            while True:
                if not self._again:
                    self._asleep = True
                    await trio.lowlevel.wait_readable(self._fd)
                    self._asleep = False
                    self.counts.waits += 1
                rounds = 0
                # Asking once more than there are events is cheaper than it seems: the answer to what was just passed on
                # has often arrived by then, and a way through Trio's wait costs several polls.
                while self._turn() or self._again:
                    rounds += 1
                    if self.woke or self._again or rounds >= _MAX_ROUNDS:
                        self.woke = False
                        rounds = 0
                        await trio.lowlevel.checkpoint()
        finally:
            self._asleep = False
            self._epoll.close()
            os.close(self._alarm)
            self.handlers.clear()

    def _turn(self) -> int:
        """Poll once and hand out what there is. Returns how many events there were."""
        events = self._epoll.poll(0, _MAX_EVENTS)
        again = min(len(self._again), _MAX_AGAIN)
        get = self.handlers.get
        for fd, mask in events:
            handler = get(fd)
            if handler is not None:
                try:
                    handler(mask)
                except Exception:  # a bug in one handler must not end the Trio run
                    logger.exception("an event handler failed")
        for _ in range(again):
            callback = self._again.popleft()
            try:
                callback()
            except Exception:
                logger.exception("a deferred handler failed")
        self.counts.events += len(events)
        return len(events)

    def __repr__(self) -> str:
        return f"<Reactor of {len(self.handlers)} sockets>"


_reactor: trio.lowlevel.RunVar[Reactor] = trio.lowlevel.RunVar("linkerd_proxy.reactor")


def current_reactor() -> Reactor | None:
    """Return the reactor of this Trio run, started at the first call; None where there is no epoll."""
    if not _enabled:
        return None
    try:
        return _reactor.get()
    except LookupError:
        reactor = Reactor()
        _reactor.set(reactor)
        trio.lowlevel.spawn_system_task(reactor.run, name="linkerd_proxy.reactor")
        return reactor
