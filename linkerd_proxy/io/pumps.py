"""Copy any two streams into each other with two tasks: for TLS, memory streams, and systems without epoll."""

from __future__ import annotations

from collections.abc import Callable

import trio

from linkerd_proxy.errors import IdleTimeout

__all__ = ["Pump", "run_pumps"]

_CHUNK = 65536


class Pump:
    """Copies one direction, then its end."""

    __slots__ = ("broken", "ended", "moved", "sink", "source")

    def __init__(self, source: trio.abc.HalfCloseableStream, sink: trio.abc.HalfCloseableStream) -> None:
        self.source: trio.abc.HalfCloseableStream = source
        self.sink: trio.abc.HalfCloseableStream = sink
        self.moved: int = 0
        self.ended: trio.Event = trio.Event()
        self.broken: trio.abc.HalfCloseableStream | None = None
        """The stream that broke, if one did."""

    async def run(self) -> None:
        """Copy until the source ends. Raises what the streams raise."""
        while True:
            try:
                data = await self.source.receive_some(_CHUNK)
            except trio.BrokenResourceError:
                self.broken = self.source
                raise
            self.moved += len(data)
            try:
                if not data:
                    await self.sink.send_eof()
                    break
                await self.sink.send_all(data)
            except trio.BrokenResourceError:
                self.broken = self.sink
                raise
        self.ended.set()

    def __repr__(self) -> str:
        return f"<Pump {'over' if self.ended.is_set() else 'open'}, {self.moved} bytes moved>"


async def run_pumps(forward: Pump, backward: Pump, half_open: float) -> None:
    """Run both directions until both have ended.

    Raises:
        trio.BrokenResourceError: if a stream broke.
        trio.ClosedResourceError: if one was closed by another task.
        IdleTimeout: if one direction had ended and the other moved nothing for ``half_open`` seconds.
    """
    failure: Exception | None = None

    async def run(pump: Pump) -> None:
        nonlocal failure
        try:
            await pump.run()
        except Exception as error:  # no group may leave: the first failure ends both directions
            failure = failure or error
            nursery.cancel_scope.cancel()
        else:
            if not (forward.ended.is_set() and backward.ended.is_set()):
                nursery.start_soon(_watch, forward, backward, half_open, give_up)
            else:
                nursery.cancel_scope.cancel()

    def give_up(error: Exception) -> None:
        nonlocal failure
        failure = failure or error
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, forward)
        nursery.start_soon(run, backward)
    if failure is not None:
        raise failure


async def _watch(forward: Pump, backward: Pump, half_open: float, give_up: Callable[[Exception], None]) -> None:
    moved = -1
    while moved != forward.moved + backward.moved:
        moved = forward.moved + backward.moved
        await trio.sleep(half_open)
    give_up(IdleTimeout("a half-closed connection was idle", waited=half_open))
