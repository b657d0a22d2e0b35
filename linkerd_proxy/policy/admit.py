"""A bound on the work in flight, with a short queue before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic

import trio
from typing_extensions import TypeVar

from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration, Overloaded
from linkerd_proxy.metrics.registry import current_registry

__all__ = ["Limit", "LimitStatistics", "Limiter"]

W = TypeVar("W", default=Exchange)


@dataclass(frozen=True, slots=True, repr=False)
class Limit(Layer[W, W]):
    """Lets so many pieces of work in at once; a few more wait in order, and the others are refused at once.

    Work is in flight until its last byte has left, body included: a connection, an exchange, or a dial with what it is
    used for.

    Args:
        in_flight: How much may be in flight at once (own figure for Python: 2000; Linkerd: 100,000).
        queue: How much may wait for its turn (own figure; Linkerd: 10,000). 0 refuses at once.
        wait: Seconds that it may wait (Linkerd's inbound fail-fast: 1).

    Raises:
        Overloaded: for work that found the queue full, or that waited too long. ``Rescue`` answers 503 with
            ``retry-after``. Cancelled work leaves its place in the queue or in flight at once.
    """

    in_flight: int = 2000
    queue: int = 200
    wait: float = 1.0

    def __post_init__(self) -> None:
        if self.in_flight < 1:
            raise InvalidConfiguration(f"Limit(in_flight={self.in_flight!r}) lets nothing in: give at least 1")
        if self.queue < 0:
            raise InvalidConfiguration(f"Limit(queue={self.queue!r}): give 0 or more")
        if self.wait < 0:
            raise InvalidConfiguration(f"Limit(wait={self.wait!r}): give 0 seconds or more")

    @asynccontextmanager
    async def open(self, inner: Service[W]) -> AsyncIterator[Service[W]]:
        """Yield a :class:`Limiter`."""
        yield Limiter(self, inner)


@dataclass(frozen=True, slots=True)
class LimitStatistics:
    """How full a limiter is.

    Args:
        in_flight: Pieces of work that were let in and have not finished.
        waiting: Pieces of work in the queue.
        refused: Pieces of work turned away since it was opened.
    """

    in_flight: int
    waiting: int
    refused: int


class Limiter(Generic[W]):
    """One opened :class:`Limit`: a service that can tell how full it is."""

    __slots__ = ("_flying", "_inner", "_limit", "_refused", "_refused_total", "_slots", "_waiting")

    def __init__(self, limit: Limit[W], inner: Service[W]) -> None:
        registry = current_registry()
        self._limit = limit
        self._inner = inner
        self._refused = 0
        # Hands a slot that becomes free to the one who has waited longest, so that newcomers can't overtake.
        self._slots = trio.Semaphore(limit.in_flight)
        self._flying = registry.gauge("limit_in_flight", "Work let in by limits and not finished")
        self._waiting = registry.gauge("limit_waiting", "Work waiting in the queues of limits")
        self._refused_total = registry.counter("limit_refused_total", "Work refused by limits")

    async def __call__(self, work: W) -> None:
        """Serve one piece of work when there is room for it."""
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            await self._wait()
        self._flying.value += 1
        try:
            await self._inner(work)
        finally:
            self._flying.value -= 1
            self._slots.release()

    async def _wait(self) -> None:
        limit = self._limit
        if self._slots.statistics().tasks_waiting >= limit.queue:
            raise self._overloaded(f"{limit.queue} wait already")
        self._waiting.value += 1
        try:
            with trio.move_on_after(limit.wait):
                await self._slots.acquire()
                return
        finally:
            self._waiting.value -= 1
        raise self._overloaded("none was free in time", waited=limit.wait)

    def _overloaded(self, why: str, *, waited: float | None = None) -> Overloaded:
        self._refused += 1
        self._refused_total.value += 1
        return Overloaded(
            f"all {self._limit.in_flight} slots of Limit(in_flight={self._limit.in_flight}) are taken and {why}",
            layer="Limit",
            waited=waited,
        )

    def statistics(self) -> LimitStatistics:
        """Return how full it is now."""
        return LimitStatistics(
            in_flight=self._limit.in_flight - self._slots.value,
            waiting=self._slots.statistics().tasks_waiting,
            refused=self._refused,
        )

    def __repr__(self) -> str:
        now = self.statistics()
        return (
            f"<Limiter with {now.in_flight} of {self._limit.in_flight} in flight, "
            f"{now.waiting} waiting, {now.refused} refused>"
        )
