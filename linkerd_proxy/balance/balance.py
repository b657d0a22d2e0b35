"""The stack that spreads work over the endpoints of a name."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import trio
from typing_extensions import TypeVar

from linkerd_proxy.address import Address
from linkerd_proxy.balance.balancer import Balancer
from linkerd_proxy.balance.breaker import Breaker, Reason
from linkerd_proxy.balance.picks import P2c, Pick, Picker
from linkerd_proxy.balance.pool import Pool
from linkerd_proxy.balance.queue import Queue
from linkerd_proxy.balance.statistics import current_balancers
from linkerd_proxy.balance.tuning import Tuning
from linkerd_proxy.balance.zones import Zoned
from linkerd_proxy.core.background import open_background
from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.core.classify import Classify, classify
from linkerd_proxy.core.endpoint import Endpoint, Resolution, Resolve
from linkerd_proxy.core.ready import announce_ready
from linkerd_proxy.core.shared import shared
from linkerd_proxy.core.stack import Service, Stack
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.registry import Registry, current_registry

__all__ = ["Balance"]

A = TypeVar("A")

_DRAWN = Endpoint(Address("endpoint", 0))


@dataclass(frozen=True, slots=True, repr=False)
class Balance(Stack[A]):
    """Sends each piece of work to one of the endpoints of a name: exchanges, dials, or anything else.

    Each endpoint has a stack of its own, opened in a task of its own as long as discovery names it; so its connections
    are kept and used again. One that is removed finishes the work that it has.

    Work waits until an endpoint is ready. One that can't be reached is taken out, and its work, of which nothing was
    sent, goes to another (exchanges and dials; a ``Connection`` can't be handed on: put ``Forward()`` outside).
    After a backoff one piece of work is its probe. The breaker does the same for bad answers.

    Inside ``Retry`` or ``Hedge`` a further try goes to an endpoint where those before it have not been, if it can,
    and a probe is a request that can be tried again, if one comes within a second.

    Args:
        resolve: Where the endpoints become known: ``Static(...)``, ``Dns(...)``, ``EndpointsFile(...)``.
        replica: Makes the stack of an endpoint, for example ``lambda e: Client() | Connect(e.address)``.
        pick: How one of those that are ready is picked.
        breaker: When answers put an endpoint out, or None for never.
        connect_backoff: How long one that can't be reached is out (Linkerd: 100 ms to 60 s, jitter 0.1).
        queue: How much work may wait for an endpoint (own figure for Python: 2000, what ``Limit`` lets in; Linkerd:
            10,000).
        failfast: Seconds that it waits; when none was ready for so long, all work fails at once until one is (Linkerd's
            outbound: 3).
        zone: The zone of this proxy, whose endpoints are preferred; empty prefers none.
        spill: How many times the load of an endpoint elsewhere one in this zone may have (own figure).
        slow_start: Seconds in which an endpoint that is new, or back, comes up to its share; 0 for at once.
        classify: Judges answers for the breaker.
        name: Tells this one from others in metrics and logs.
        dice: What is random.

    Serving raises:
        FailFast: if no endpoint was ready in time, or the name does not exist.
        Overloaded: if too much work waits.
        ConnectFailed: if endpoint after endpoint could not be reached, until the time was up.

    Cancellation reaches the endpoint's stack. It says nothing about the endpoint, unless a deadline expired before the
    answer began: then the endpoint was too slow.
    """

    resolve: Resolve
    replica: Callable[[Endpoint], Stack[A]]
    pick: Pick = field(default_factory=P2c, kw_only=True)
    breaker: Breaker | None = field(default=Breaker(), kw_only=True)
    connect_backoff: Backoff = field(default=Backoff(0.1, 60.0, 0.1), kw_only=True)
    queue: int = field(default=2000, kw_only=True)
    failfast: float = field(default=3.0, kw_only=True)
    zone: str = field(default="", kw_only=True)
    spill: float = field(default=4.0, kw_only=True)
    slow_start: float = field(default=0.0, kw_only=True)
    classify: Classify = field(default=classify, kw_only=True)
    name: str = field(default="", kw_only=True)
    dice: Random = field(default_factory=Random, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.queue < 0:
            raise InvalidConfiguration(f"Balance(queue={self.queue!r}): give 0 or more")
        if not 0 <= self.failfast < math.inf:
            raise InvalidConfiguration(f"Balance(failfast={self.failfast!r}): give a number of seconds from 0")
        if not self.spill >= 1:
            raise InvalidConfiguration(f"Balance(spill={self.spill!r}) prefers other zones: give 1 or more")
        if not 0 <= self.slow_start < math.inf:
            raise InvalidConfiguration(f"Balance(slow_start={self.slow_start!r}): give a number of seconds from 0")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[A]]:
        """Yield a :class:`~linkerd_proxy.balance.balancer.Balancer`, which needs no endpoint to be known yet."""
        registry = current_registry()
        labels = {"balancer": self.name}
        async with shared(self.resolve) as resolution, open_background() as nursery:
            pool = self._pool(nursery, registry, labels)
            balancer = Balancer(self.name, pool, self.failfast, registry, labels)
            nursery.start_soon(_follow, resolution, pool, registry, labels)
            announce_ready(pool.roster.is_ready)
            with _known(balancer, registry):
                yield balancer

    def _pool(self, nursery: trio.Nursery, registry: Registry, labels: dict[str, str]) -> Pool[A]:
        def describe() -> str:
            return pool.roster.describe()

        def ejected(reason: Reason) -> None:
            registry.counter(
                "balancer_ejections_total", "Endpoints that were put out, by why", **labels, reason=reason
            ).value += 1

        tuning = Tuning(
            measure=self.pick if isinstance(self.pick, P2c) else P2c(),
            breaker=self.breaker,
            connect_backoff=self.connect_backoff,
            classify=self.classify,
            zone=self.zone,
            slow_start=self.slow_start,
        )
        queue = Queue(self.queue, self.failfast, describe, registry, labels)
        pool: Pool[A] = Pool(self.name, self.replica, self._picker(), queue, tuning, self.dice, nursery, ejected)
        return pool

    def _picker(self) -> Picker[A]:
        picker = self.pick.picker(self.dice)
        return Zoned(picker, self.pick.picker(self.dice), self.spill) if self.zone else picker

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return the stack that an endpoint has, or would have if one can be made of an endpoint that there isn't."""
        try:
            return [("each endpoint", self.replica(self.resolve.example() or _DRAWN))]
        except Exception:  # drawing must not fail: the function may want more of an endpoint than an address
            return []

    def title(self) -> str:
        """Return the line without the branch."""
        settings = repr(self).removeprefix("Balance(")
        drawn = self.branches()
        return repr(self) if not drawn else "Balance(" + settings.replace(f"{self.replica!r}, ", "", 1)


@contextmanager
def _known(balancer: Balancer[Any], registry: Registry) -> Iterator[None]:
    balancers = current_balancers()
    balancers.append(balancer)
    try:
        with registry.collecting(balancer.collect):
            yield
    finally:
        balancers.remove(balancer)
        balancer.close()


async def _follow(resolution: Resolution, pool: Pool[Any], registry: Registry, labels: dict[str, str]) -> None:
    """Apply what discovery tells, for ever."""
    counters = {
        kind: registry.counter("balancer_updates_total", "Updates from discovery, by kind", **labels, op=kind)
        for kind in ("Add", "Remove", "Reset", "Gone")
    }
    async for update in resolution.updates():
        counters[type(update).__name__].value += 1
        pool.apply(update)
