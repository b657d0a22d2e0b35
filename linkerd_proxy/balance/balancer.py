"""The live side of a balancer: each piece of work to one endpoint, in a few microseconds."""

from __future__ import annotations

import sys
from typing import Generic

import trio
from typing_extensions import TypeVar

from linkerd_proxy.balance.flight import DialFlight, ExchangeFlight, Flight, WorkFlight
from linkerd_proxy.balance.pool import Pool
from linkerd_proxy.balance.replica import Replica
from linkerd_proxy.balance.states import STATES
from linkerd_proxy.balance.statistics import BalanceStatistics, EndpointStatistics, states_of
from linkerd_proxy.core.work import Dial, Exchange
from linkerd_proxy.errors import ConnectFailed, FailFast
from linkerd_proxy.metrics.registry import Counter, Registry

__all__ = ["Balancer"]

A = TypeVar("A")


def _is_late(error: BaseException | None) -> bool:
    """Whether work was cancelled since it had a deadline, and not since nobody wants it any more."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_late, error.exceptions))
    return isinstance(error, trio.Cancelled) and error.source == "deadline"


class Balancer(Generic[A]):
    """One opened ``Balance``: a service that can tell how its endpoints are."""

    __slots__ = (
        "_choice",
        "_clock",
        "_elsewhere",
        "_failfast",
        "_gauges",
        "_health",
        "_name",
        "_pick",
        "_pool",
        "_waiting",
    )

    def __init__(self, name: str, pool: Pool[A], failfast: float, registry: Registry, labels: dict[str, str]) -> None:
        self._name = name
        self._pool = pool
        self._choice = pool.choice
        self._pick = pool.choice.pick
        self._health = pool.health
        self._clock = pool.health.clock
        self._failfast = failfast
        self._elsewhere: Counter = registry.counter(
            "balancer_redirected_total", "Work that went to another endpoint since one could not be reached", **labels
        )
        self._gauges = {
            state: registry.gauge("balancer_endpoints", "Endpoints by state", **labels, state=state) for state in STATES
        }
        self._waiting = registry.gauge("balancer_waiting", "Work that waits for a ready endpoint", **labels)

    async def __call__(self, work: A) -> None:
        """Serve one piece of work at an endpoint, waiting for one if none is ready."""
        now = self._clock()
        replica = self._pick(work, now)
        deadline = now + self._failfast
        failure: ConnectFailed | None = None
        while True:
            if replica is None:
                replica = await self._wait(work, deadline, failure)
                now = trio.current_time()
            service = replica.service
            assert service is not None  # only one whose stack is open is ready
            flight = self._fly(replica, work, now)
            ended = False
            try:
                await service(flight.wrap(work))
                ended = True
                flight.served()
                return
            except Exception as error:
                ended = True
                flight.failed(error)
                if not isinstance(error, ConnectFailed) or not flight.untouched:
                    raise
                failure = error
            finally:
                if not ended:
                    flight.cancelled(late=_is_late(sys.exception()))
                flight.end()
            # Nothing of the work was sent, so that another endpoint may have it: this one was simply not ready.
            now = trio.current_time()
            if now >= deadline:
                raise failure
            self._elsewhere.value += 1
            replica = self._choice.pick_again(work, now)

    def _fly(self, replica: Replica[A], work: A, now: float) -> Flight:
        if isinstance(work, Exchange):
            return ExchangeFlight(self._health, replica, now, work)
        if isinstance(work, Dial):
            return DialFlight(self._health, replica, now, work)
        return WorkFlight(self._health, replica, now)

    async def _wait(self, work: A, deadline: float, failure: ConnectFailed | None) -> Replica[A]:
        pool = self._pool
        while True:
            try:
                await pool.queue.wait(deadline, pool.gone)
            except FailFast as error:
                if failure is not None:
                    error.add_note(f"the last that was tried: {failure}")
                raise
            replica = self._choice.pick(work, trio.current_time())
            if replica is not None:
                return replica

    def statistics(self) -> BalanceStatistics:
        """Return how it and its endpoints are now."""
        pool = self._pool
        endpoints = tuple(
            EndpointStatistics(
                endpoint=replica.endpoint,
                state=replica.state,
                in_flight=replica.active,
                pending=replica.pending,
                rtt=replica.ewma.read(trio.current_time()),
                picked=replica.picked,
                failed=replica.failed,
                ejections=replica.generation,
            )
            for replica in (*pool.roster.replicas.values(), *pool.roster.leaving)
        )
        return BalanceStatistics(self._name, endpoints, pool.queue.waiting, pool.queue.failing)

    def collect(self) -> None:
        """Bring the gauges up to date."""
        counts = states_of(self.statistics().endpoints)
        for state, gauge in self._gauges.items():
            gauge.value = counts.get(state, 0)
        self._waiting.value = self._pool.queue.waiting

    def close(self) -> None:
        """Leave nothing in the gauges."""
        for gauge in self._gauges.values():
            gauge.value = 0
        self._waiting.value = 0

    def __repr__(self) -> str:
        name = f" {self._name}" if self._name else ""
        roster = self._pool.roster
        return f"<Balancer{name} over {len(roster.replicas)} endpoints: {roster.describe()}>"
