"""The layer that asks again where that is safe, and worth it."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType

from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.core.clock import open_clock
from linkerd_proxy.core.expiry import open_expiry
from linkerd_proxy.core.shared import shared
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.registry import Counter, Registry, current_registry
from linkerd_proxy.retry.budget import Budget
from linkerd_proxy.retry.conditions import IDEMPOTENT, parse_grpc, parse_http
from linkerd_proxy.retry.plan import Plan, names_retries, without_retry_headers
from linkerd_proxy.retry.tries import Counters, Means, Tries

__all__ = ["Retry"]

_NO_LABELS: Mapping[str, str] = MappingProxyType({})
_BACKOFF = Backoff(0.025, 0.25, 1.0)


@dataclass(frozen=True, slots=True, repr=False)
class Retry(Layer[Exchange, Exchange]):
    """Asks again when a try failed: within a budget, where repeating is safe, and before the client saw any answer.

    ==============================================  ==============================================
    no connection, ``REFUSED_STREAM``, a GOAWAY     any request: the upstream did not process it
    below the stream, fail-fast
    a connection that broke, an answer that is      requests that may be repeated: of ``methods``,
    none, silence, a try's ``timeout`` or one       and gRPC calls if ``grpc`` names a status
    of a layer inside
    an answer with one of the ``http`` statuses     the same; the last try's answer is handed on
    or (in head or trailers) ``grpc`` statuses
    ==============================================  ==============================================

    A balancer inside sends a further try to another endpoint. Without ``timeout`` an upstream that hangs is found by
    outer deadlines alone, and costs the request.

    Once the head of an answer was handed on there is no further try. The body of a request that streams is kept as it
    passes, and the next try gets it from its first byte; one that outgrew ``max_request_bytes`` is not tried again.

    Args:
        budget: How many retries there may be beside the requests; by default one of the layer's own.
        limit: How many retries one request may have, from 0 to 100.
        http: Statuses to retry: ``5xx``, ``gateway-error`` (502 to 504), ``429``, ``500-503``, separated by commas.
        grpc: gRPC statuses to retry: ``unavailable``, ``resource-exhausted`` ..., separated by commas. Naming one says
            that calls may be repeated.
        methods: Methods that may be repeated although the upstream may have processed them.
        timeout: Seconds that a try may take until its answer's head. The last try has all the time that is left.
        backoff: How long to wait before the next try.
        max_request_bytes: Bytes of a request's body to keep while it streams.
        patience: Seconds for which an upstream's ``retry-after`` or ``grpc-retry-pushback-ms`` is waited. If it wants
            more, its answer is handed on instead.
        peek: Seconds for which the head of a gRPC answer may be held back to see how the call ends.
        headers: Whether a request's ``l5d-retry-http``, ``-grpc``, ``-limit`` and ``-timeout`` count. They are removed
            in any case.
        labels: Labels of your own for the metrics. Never take their values from a peer.
        dice: For the jitter.

    Serving raises what the last try raised, and ResponseTimeout for a try that took too long if no other was made.
    Cancellation cancels the try that is under way. Source: linkerd2-proxy, linkerd/http/retry and
    linkerd/app/outbound/src/http/logical/policy/route/retry.rs.
    """

    budget: Budget = field(default_factory=Budget)
    limit: int = 1
    http: str = "gateway-error"
    grpc: str = ""
    methods: Collection[str] = IDEMPOTENT
    timeout: float | None = None
    backoff: Backoff = _BACKOFF
    max_request_bytes: int = 65536
    patience: float = 1.0
    peek: float = 0.01
    headers: bool = False
    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS, hash=False)
    dice: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    def __post_init__(self) -> None:
        parse_http(self.http)
        parse_grpc(self.grpc)
        if not 0 <= self.limit <= 100:
            raise InvalidConfiguration(f"Retry(limit={self.limit!r}): give 0 to 100 retries")
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise InvalidConfiguration(f"Retry(timeout={self.timeout!r}): give seconds greater than 0, or None")
        if isinstance(self.methods, str):  # a collection too, of letters
            raise InvalidConfiguration(f"Retry(methods={self.methods!r}): give a tuple of methods")
        if self.max_request_bytes < 0:
            raise InvalidConfiguration(f"Retry(max_request_bytes={self.max_request_bytes!r}): give 0 or more")
        for name in ("patience", "peek"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InvalidConfiguration(f"Retry({name}={getattr(self, name)!r}): give 0 seconds or more")

    @asynccontextmanager
    async def open(self, inner: Service[Exchange]) -> AsyncIterator[Service[Exchange]]:
        """Yield the live service."""
        plan = Plan(self.limit, parse_http(self.http), parse_grpc(self.grpc), frozenset(self.methods), self.timeout)
        counters = _counters(current_registry(), dict(self.labels))
        limit = self.max_request_bytes
        headers = self.headers
        limited = nullcontext() if self.timeout is None else open_expiry(self.timeout)
        async with shared(self.budget) as account, limited as expiry:
            clock = open_clock()
            means = Means(inner, account, self.backoff, self.dice, counters, self.peek, self.patience, expiry)

            def service(exchange: Exchange) -> Awaitable[None]:
                request = exchange.request
                own = plan
                if names_retries(request.headers.raw):
                    if headers:
                        own = plan.asked_by(request.headers)
                    request = without_retry_headers(request)
                return Tries(exchange, request, own, means, limit, clock()).run()

            yield service


def _counters(registry: Registry, labels: dict[str, str]) -> Counters:
    def skipped(why: str) -> Counter:
        return registry.counter("route_retryable_total", "Failures worth a retry", **labels, skipped=why)

    return Counters(
        requests=registry.counter("route_retry_requests_total", "Retries sent", **labels),
        successes=registry.counter("route_retry_successes_total", "Retries that were answered well", **labels),
        limit_exceeded=registry.counter(
            "route_retry_limit_exceeded_total", "Failures not retried: the request had all its retries", **labels
        ),
        overflow=registry.counter(
            "route_retry_overflow_total", "Failures not retried: the budget was used up", **labels
        ),
        retried=skipped(""),
        no_budget=skipped("no_budget"),
        body=skipped("body"),
        pushback=skipped("pushback"),
    )
