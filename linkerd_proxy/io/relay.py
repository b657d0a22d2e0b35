"""Copy two streams into each other until both have ended."""

from __future__ import annotations

from typing import Literal, Protocol

import trio

from linkerd_proxy.core.waiter import Waiter
from linkerd_proxy.errors import IdleTimeout
from linkerd_proxy.io.flow import Flow
from linkerd_proxy.io.pumps import Pump, run_pumps
from linkerd_proxy.io.reactor import CAREFUL, HANGUP, INPUT, OUTPUT, Handler, Reactor, current_reactor
from linkerd_proxy.io.rewind import Rewound
from linkerd_proxy.io.streams import SocketStream, abort

__all__ = ["HALF_OPEN", "Relayed", "relay"]

HALF_OPEN = 600.0  # seconds; own figure, long enough for a slow answer to a request that ended in a half-close


class _Moved(Protocol):
    moved: int


class _Nothing:
    moved = 0


class Relayed:
    """What a relay has moved so far; it may be read while the relay runs."""

    __slots__ = ("backward", "broken", "forward")

    def __init__(self) -> None:
        self.forward: _Moved = _Nothing()
        self.backward: _Moved = _Nothing()
        self.broken: Literal["first", "second"] | None = None
        """Which stream broke, if one did."""

    @property
    def sent(self) -> int:
        """Bytes taken from the first stream for the second."""
        return self.forward.moved

    @property
    def received(self) -> int:
        """Bytes taken from the second stream for the first."""
        return self.backward.moved

    def __repr__(self) -> str:
        broken = f", {self.broken} broke" if self.broken else ""
        return f"<Relayed {self.sent} bytes there, {self.received} back{broken}>"


async def relay(
    first: trio.abc.HalfCloseableStream,
    second: trio.abc.HalfCloseableStream,
    *,
    half_open: float = HALF_OPEN,
    progress: Relayed | None = None,
) -> Relayed:
    """Copy two streams into each other until both directions have ended, passing each end on.

    Pairs of sockets are moved by the reactor, without waking a task per chunk. The streams are left open for their
    owners to close, with both ends sent; unless something went wrong: then both are aborted, because a truncated
    transfer must not look like a whole one.

    Args:
        first: One stream, which may be :class:`~linkerd_proxy.io.rewind.Rewound`.
        second: The other one.
        half_open: Seconds that a connection with one direction ended may go on without a byte (at most twice that).
        progress: Where to count; a new one by default.

    Returns:
        How much was moved.

    Raises:
        trio.BrokenResourceError: if one of them broke, ``progress.broken`` says which.
        trio.ClosedResourceError: if one was closed by another task.
        IdleTimeout: if it was half open and idle for too long.

    Cancellation aborts both.
    """
    progress = Relayed() if progress is None else progress
    whole = False
    try:
        await _relay(first, second, half_open, progress)
        whole = True
    finally:
        if not whole:
            with trio.CancelScope(shield=True):
                await abort(first)
                await abort(second)
    return progress


async def _relay(
    first: trio.abc.HalfCloseableStream, second: trio.abc.HalfCloseableStream, half_open: float, progress: Relayed
) -> None:
    outer, inner = _socket_of(first), _socket_of(second)
    reactor = current_reactor()
    if reactor is None or outer is None or inner is None:
        await _pumped(first, second, half_open, progress)
    else:
        pair = _Pair(reactor, outer, inner, progress)
        pair.forward.put_back(_taken(first))
        pair.backward.put_back(_taken(second))
        await pair.run(half_open)


def _socket_of(stream: trio.abc.HalfCloseableStream) -> SocketStream | None:
    while isinstance(stream, Rewound):
        stream = stream.stream
    return stream if isinstance(stream, SocketStream) else None


def _taken(stream: trio.abc.HalfCloseableStream) -> bytes:
    taken = b""
    while isinstance(stream, Rewound):
        taken += stream.take()
        stream = stream.stream
    return taken


async def _pumped(
    first: trio.abc.HalfCloseableStream, second: trio.abc.HalfCloseableStream, half_open: float, progress: Relayed
) -> None:
    forward, backward = Pump(first, second), Pump(second, first)
    progress.forward, progress.backward = forward, backward
    try:
        await run_pumps(forward, backward, half_open)
    finally:
        broken = forward.broken or backward.broken
        if broken is not None:
            progress.broken = "first" if broken is first else "second"


class _Pair:
    """Two sockets that the reactor copies into each other, and the task that sleeps meanwhile."""

    __slots__ = ("_sleeper", "backward", "ended", "error", "first", "forward", "progress", "reactor", "second")

    def __init__(self, reactor: Reactor, first: SocketStream, second: SocketStream, progress: Relayed) -> None:
        self.reactor = reactor
        self.first = first
        self.second = second
        self.progress = progress
        self.forward = Flow(reactor, first, second, self._on_end, self._on_error)
        self.backward = Flow(reactor, second, first, self._on_end, self._on_error)
        progress.forward, progress.backward = self.forward, self.backward
        self.ended = 0
        self.error: Exception | None = None
        self._sleeper = Waiter()

    async def run(self, half_open: float) -> None:
        if not self.first.lend(self._handler(self.forward, self.backward), self._on_closed):
            raise AssertionError("a socket without a reactor")
        try:
            self.second.lend(self._handler(self.backward, self.forward), self._on_closed)
            try:
                await self._run(half_open)
            finally:
                self.second.reclaim()
        finally:
            self.first.reclaim()
            self.forward.stop()
            self.backward.stop()

    async def _run(self, half_open: float) -> None:
        self.forward.move()
        self.backward.move()
        await trio.lowlevel.checkpoint()
        while self.running:
            if not self.ended:
                await self._sleeper.wait()
                continue
            before = self.forward.moved + self.backward.moved
            with trio.move_on_after(half_open) as scope:
                await self._sleeper.wait()
            if scope.cancelled_caught and before == self.forward.moved + self.backward.moved:
                raise IdleTimeout("a half-closed connection was idle", waited=half_open)
        if self.error is not None:
            raise self.error

    def _wake(self) -> None:
        if self._sleeper.wake():
            self.reactor.woke = True

    def _handler(self, leaving: Flow, arriving: Flow) -> Handler:
        """Return what takes the events of one socket: a closure, because this runs for every message."""

        def on_events(mask: int) -> None:
            if mask & INPUT:
                if mask & CAREFUL:
                    leaving.careful = True
                leaving.move()
            if mask & OUTPUT and arriving.stuck:
                arriving.move()
            if mask & HANGUP and self.running:
                leaving.check_source()

        return on_events

    @property
    def running(self) -> bool:
        """Whether there is something left to move."""
        return self.error is None and self.ended < 2

    def _on_end(self) -> None:
        self.ended += 1
        self._wake()

    def _on_error(self, stream: SocketStream, error: OSError) -> None:
        if self.running:  # a reset after both ends came changes nothing: everything has arrived
            self.progress.broken = "first" if stream is self.first else "second"
            self.error = stream.broken(error)
            self.error.__cause__ = error
            self.forward.stop()
            self.backward.stop()
            self._wake()

    def _on_closed(self) -> None:
        if self.running:
            self.error = trio.ClosedResourceError("another task closed one of the streams")
            self.forward.stop()
            self.backward.stop()
            self._wake()
