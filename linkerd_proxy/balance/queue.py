"""Work that waits for an endpoint to be ready, and fails at once after none was for too long."""

from __future__ import annotations

from collections.abc import Callable

import trio

from linkerd_proxy.errors import FailFast, Overloaded
from linkerd_proxy.metrics.registry import Registry

__all__ = ["Queue"]


class Queue:
    """Those who wait. When none was ready for ``failfast`` seconds, they and all who come fail at once until one is.

    Args:
        limit: How many may wait.
        failfast: Seconds, from the first who waits.
        describe: Says how the endpoints are, for the error.
        registry: Where it counts.
        labels: What tells this balancer from others.
    """

    __slots__ = ("_describe", "_entered", "_failfast", "_limit", "_lot", "_refused", "failing", "since", "waiting")

    def __init__(
        self, limit: int, failfast: float, describe: Callable[[], str], registry: Registry, labels: dict[str, str]
    ) -> None:
        self._limit = limit
        self._failfast = failfast
        self._describe = describe
        self._lot = trio.lowlevel.ParkingLot()
        self._entered = registry.counter(
            "balancer_failfast_total",
            "Times that balancers began to fail at once, for want of a ready endpoint",
            **labels,
        )
        self._refused = registry.counter(
            "balancer_refused_total", "Work that balancers refused: queue full, or no endpoint ready in time", **labels
        )
        self.waiting: int = 0
        self.since: float | None = None
        """When the first of those who wait came."""
        self.failing: bool = False
        """Whether work fails at once."""

    async def wait(self, deadline: float, gone: str | None) -> None:
        """Wait until an endpoint may be ready.

        Args:
            deadline: When this piece of work has waited long enough in any case.
            gone: Why there is nobody to wait for, if so.

        Raises:
            FailFast: if none was in time, or there is none to wait for.
            Overloaded: if too many wait already.
        """
        if gone is not None or self.failing:
            raise self._fail(gone, None)
        if self.waiting >= self._limit:
            self._refused.value += 1
            raise Overloaded(f"{self._limit} wait for an endpoint already (Balance(queue=...))", layer="Balance")
        now = trio.current_time()
        if self.since is None:
            self.since = now
        since = self.since
        self.waiting += 1
        try:
            with trio.move_on_at(min(deadline, since + self._failfast)):
                await self._lot.park()
                return
        finally:
            self.waiting -= 1
        self._enter(since)
        raise self._fail(None, trio.current_time() - now)

    def _enter(self, since: float) -> None:
        # Not where this work alone had waited elsewhere, or an endpoint was ready in between.
        if not self.failing and self.since == since and trio.current_time() >= since + self._failfast:
            self.failing = True
            self._entered.value += 1

    def open(self) -> None:
        """Let all on: an endpoint is ready, or there is none to wait for."""
        self.failing = False
        self.since = None
        if self.waiting:
            self._lot.unpark_all()

    def open_once(self) -> None:
        """Let one on, as a probe. Whether it is well again is not known yet, so that failing at once goes on."""
        if self.waiting:
            self._lot.unpark()

    def _fail(self, gone: str | None, waited: float | None) -> FailFast:
        self._refused.value += 1
        return FailFast(gone or f"no endpoint is ready: {self._describe()}", layer="Balance", waited=waited)

    def __repr__(self) -> str:
        return f"<Queue of {self.waiting}{', failing fast' if self.failing else ''}>"
