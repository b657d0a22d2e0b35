"""The layer that asks a second time when the answer is slow to come, and takes whichever comes first."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

import trio

from linkerd_proxy.core.attempt import close_attempt, join_attempt
from linkerd_proxy.core.shared import shared
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.histogram import Histogram
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.retry.budget import Budget
from linkerd_proxy.retry.conditions import IDEMPOTENT, parse_grpc, parse_http
from linkerd_proxy.retry.plan import Plan
from linkerd_proxy.retry.race import Course, Race

__all__ = ["Hedge"]

_NO_LABELS: Mapping[str, str] = MappingProxyType({})
_WINDOW = 10.0  # seconds of answers that a percentile is of, and those of one window before; own figure
_REFRESH = 1.0  # seconds for which a percentile that was worked out is used; own figure
_ENOUGH = 20  # answers before which a percentile means nothing; own figure


@dataclass(frozen=True, slots=True, repr=False)
class Hedge(Layer[Exchange, Exchange]):
    """Sends a request once more when no answer has begun after a while; the first good answer wins.

    This cuts off the slow tail where replicas are slow now and then, each by itself, at the cost of a few more
    requests. The loser is cancelled: its HTTP/2 stream is reset, its HTTP/1 connection closed. An answer that failed
    does not win while the other one may still come. Only requests that may be repeated are hedged, and only if all of
    the body has been sent and kept by then.

    Args:
        budget: How many second requests there may be beside the first ones.
        delay: Seconds after which to ask again.
        percentile: From 0 to 1. If given, a request is asked again after this percentile of the times that answers of
            late took to begin, as soon as enough is known of these; ``delay`` is used before that, and as the most.
        http: Statuses that have failed, as with :class:`~linkerd_proxy.retry.retry.Retry`.
        grpc: gRPC statuses that have failed. Naming one says that calls may be repeated.
        methods: Methods that may be repeated.
        max_request_bytes: Bytes of a request's body to keep while it streams.
        labels: Labels of your own for the metrics. Never take their values from a peer.

    Put it inside ``Retry``, and before what picks a replica. Serving raises what the last of the two raised.
    Cancellation cancels both. Source: J. Dean and L. A. Barroso, "The Tail at Scale", 2013; gRPC's A6.
    """

    budget: Budget = field(default_factory=Budget)
    delay: float = 0.1
    percentile: float | None = None
    http: str = "5xx"
    grpc: str = ""
    methods: Collection[str] = IDEMPOTENT
    max_request_bytes: int = 65536
    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS, hash=False)

    def __post_init__(self) -> None:
        parse_http(self.http)
        parse_grpc(self.grpc)
        if not 0 <= self.delay < math.inf:
            raise InvalidConfiguration(f"Hedge(delay={self.delay!r}): give 0 seconds or more")
        if self.percentile is not None and not 0 < self.percentile < 1:
            raise InvalidConfiguration(f"Hedge(percentile={self.percentile!r}): give more than 0 and less than 1")
        if isinstance(self.methods, str):  # a collection too, of letters
            raise InvalidConfiguration(f"Hedge(methods={self.methods!r}): give a tuple of methods")
        if self.max_request_bytes < 0:
            raise InvalidConfiguration(f"Hedge(max_request_bytes={self.max_request_bytes!r}): give 0 or more")

    @asynccontextmanager
    async def open(self, inner: Service[Exchange]) -> AsyncIterator[Service[Exchange]]:
        """Yield the live service."""
        plan = Plan(1, parse_http(self.http), parse_grpc(self.grpc), frozenset(self.methods), None)
        registry, labels = current_registry(), dict(self.labels)
        times = None if self.percentile is None else _Times(self.percentile, self.delay)
        limit = self.max_request_bytes
        async with shared(self.budget) as account:
            course = Course(
                inner,
                account,
                plan,
                registry.counter("route_hedge_requests_total", "Requests sent a second time", **labels),
                registry.counter("route_hedge_wins_total", "Second requests that were answered first", **labels),
                registry.counter("route_hedge_overflow_total", "Hedges left out: the budget was used up", **labels),
            )

            def service(exchange: Exchange) -> Awaitable[None]:
                if not plan.repeats(exchange.request):
                    return _ask_once(exchange, course)
                if times is None:
                    return Race(exchange, course, limit).run(self.delay, None)
                return Race(exchange, course, limit).run(times.delay(), times.record)

            yield service


async def _ask_once(exchange: Exchange, course: Course) -> None:
    """Serve an exchange that may not be repeated: it pays for others, and is no probe for a balancer to lose."""
    attempt, token = join_attempt()
    course.account.pay(attempt, trio.current_time())
    try:
        await course.inner(exchange)
    finally:
        close_attempt(token)


class _Times:
    """How long answers of late took to begin."""

    __slots__ = ("_before", "_delay", "_ends", "_most", "_now", "_percentile", "_refresh")

    def __init__(self, percentile: float, most: float) -> None:
        self._percentile = percentile
        self._most = self._delay = most
        self._now = Histogram()
        self._before = Histogram()
        self._ends = trio.current_time() + _WINDOW
        self._refresh = -math.inf

    def record(self, seconds: float) -> None:
        """Take note of one."""
        self._rotate(trio.current_time())
        self._now.record(seconds)

    def delay(self) -> float:
        """Return the percentile, at most the delay that was configured; that one while too little is known."""
        now = trio.current_time()
        if now >= self._refresh:
            self._refresh = now + _REFRESH
            self._rotate(now)
            both = Histogram()
            both.merge(self._before)
            both.merge(self._now)
            self._delay = min(self._most, both.quantile(self._percentile)) if both.count >= _ENOUGH else self._most
        return self._delay

    def _rotate(self, now: float) -> None:
        if now < self._ends:
            return
        # After a long silence what was "now" is no longer of late either.
        self._before = self._now if now < self._ends + _WINDOW else Histogram()
        self._now = Histogram()
        self._ends = now + _WINDOW
