"""The parts of a configuration that say how long work may take, how much there may be, and when it is tried again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from linkerd_proxy.balance.breaker import Breaker
from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.document.shape import Duration, Range
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.config.words import Count, Rate, Share
from linkerd_proxy.policy.admit import Limit
from linkerd_proxy.policy.ratelimit import RateLimit, RateOverride
from linkerd_proxy.retry.budget import Budget
from linkerd_proxy.retry.conditions import IDEMPOTENT
from linkerd_proxy.retry.hedge import Hedge
from linkerd_proxy.retry.retry import Retry
from linkerd_proxy.retry.timeouts import Timeouts

__all__ = [
    "BackoffEntry",
    "BreakerEntry",
    "BudgetEntry",
    "HedgeEntry",
    "LimitEntry",
    "RateLimitEntry",
    "RateOverrideEntry",
    "RetryEntry",
    "TimeoutsEntry",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeoutsEntry:
    """Deadlines of requests; what is not given has none."""

    request: Duration | None = None
    """For all of it, from the request's head to the answer's last byte."""
    response: Duration | None = None
    """From the request's last byte to the answer's."""
    idle: Duration | None = None
    """In which neither a head nor any content moves."""
    grpc: bool = True
    """Whether a call's own ``grpc-timeout`` counts."""
    headers: bool = False
    """Whether a request's ``l5d-request-timeout`` and ``l5d-response-timeout`` count."""

    def __post_init__(self) -> None:
        self.layer()

    def layer(self) -> Timeouts:
        """Return the layer."""
        return Timeouts(self.request, self.response, self.idle, self.grpc, self.headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackoffEntry:
    """Waits that double."""

    minimum: Duration
    """The first one."""
    maximum: Duration
    """The longest one."""
    jitter: Annotated[float, Range(0, 100)] = 0.5
    """The share of itself by which a wait is lengthened at most, at random."""

    def __post_init__(self) -> None:
        self.value()

    def value(self) -> Backoff:
        """Return the value."""
        return Backoff(self.minimum, self.maximum, self.jitter)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetEntry:
    """How many retries there may be beside the requests."""

    retry_ratio: Annotated[float, Range(0, 1000)] = 0.2
    """Retries for each request."""
    min_retries_per_second: Annotated[float, Range(0, 2**31 - 1)] = 10.0
    """Retries that need no requests."""
    ttl: Duration = 10.0
    """For how long a request counts."""

    def __post_init__(self) -> None:
        self.value()

    def value(self) -> Budget:
        """Return the resource."""
        return Budget(self.retry_ratio, self.min_retries_per_second, self.ttl)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryEntry:
    """When a request is tried again."""

    limit: Annotated[int, Range(0, 100)] = 1
    """Retries for one request."""
    http: str = "gateway-error"
    """Statuses to retry: ``5xx``, ``gateway-error``, ``429``, ``500-503``, separated by commas."""
    grpc: str = ""
    """gRPC statuses to retry, as ``unavailable,internal``; naming one says that calls may be repeated."""
    methods: tuple[str, ...] = IDEMPOTENT
    """Methods that may be repeated although the upstream may have processed them."""
    timeout: Duration | None = None
    """For each try but the last."""
    backoff: BackoffEntry = BackoffEntry(minimum=0.025, maximum=0.25, jitter=1.0)
    """Waits before retries."""
    max_request_bytes: Count = 65536
    """Bytes of a request's body to keep."""
    patience: Duration = 1.0
    """As long as an upstream's ``retry-after`` or ``grpc-retry-pushback-ms`` may ask to wait."""
    peek: Duration = 0.01
    """For which the head of a gRPC answer may be held back to see how the call ends."""
    headers: bool = False
    """Whether a request's ``l5d-retry-*`` fields count."""
    budget: BudgetEntry = field(default_factory=BudgetEntry)
    """How many there may be."""

    def __post_init__(self) -> None:
        self.layer({})

    def layer(self, labels: Mapping[str, str]) -> Retry:
        """Return the layer, with a budget of its own."""
        return Retry(
            budget=self.budget.value(),
            limit=self.limit,
            http=self.http,
            grpc=self.grpc,
            methods=self.methods,
            timeout=self.timeout,
            backoff=self.backoff.value(),
            max_request_bytes=self.max_request_bytes,
            patience=self.patience,
            peek=self.peek,
            headers=self.headers,
            labels=labels,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeEntry:
    """When a slow request is asked a second time."""

    delay: Duration = 0.1
    """After which to ask again."""
    percentile: Annotated[float, Range(0.001, 0.999)] | None = None
    """Ask again after this percentile of the times that answers take."""
    http: str = "5xx"
    """Statuses that have failed."""
    grpc: str = ""
    """gRPC statuses that have failed; naming one says that calls may be repeated."""
    methods: tuple[str, ...] = IDEMPOTENT
    """Methods that may be repeated."""
    max_request_bytes: Count = 65536
    """Bytes of a request's body to keep."""
    budget: BudgetEntry = field(default_factory=BudgetEntry)
    """How many second requests there may be."""

    def __post_init__(self) -> None:
        self.layer({})

    def layer(self, labels: Mapping[str, str]) -> Hedge:
        """Return the layer."""
        return Hedge(
            budget=self.budget.value(),
            delay=self.delay,
            percentile=self.percentile,
            http=self.http,
            grpc=self.grpc,
            methods=self.methods,
            max_request_bytes=self.max_request_bytes,
            labels=labels,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerEntry:
    """When an endpoint is left alone for its answers."""

    consecutive: Annotated[int, Range(1, 1_000_000)] | None = 7
    """Failures in a row; ``null`` for any number."""
    success_rate: Annotated[float, Range(0.001, 1)] | None = None
    """The least share of answers in ``window`` that must be no failure."""
    window: Duration = 10.0
    """What the rate is taken over."""
    min_requests: Annotated[int, Range(1, 1_000_000)] = 5
    """Answers in the window before the rate means something."""
    backoff: BackoffEntry = BackoffEntry(minimum=1.0, maximum=60.0, jitter=0.5)
    """How long it is left alone."""
    floor: Share = 0.5
    """The least share of all endpoints that stays."""

    def __post_init__(self) -> None:
        self.value()

    def value(self) -> Breaker:
        """Return the value."""
        return Breaker(
            self.consecutive, self.success_rate, self.window, self.min_requests, self.backoff.value(), self.floor
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitEntry:
    """How much may be in flight at once."""

    in_flight: Annotated[int, Range(1, 1_000_000)] = 2000
    """Requests that are being served."""
    queue: Annotated[int, Range(0, 1_000_000)] = 200
    """Requests that wait."""
    wait: Duration = 1.0
    """How long they wait."""

    def layer(self) -> Limit[Exchange]:
        """Return the layer."""
        return Limit(self.in_flight, self.queue, self.wait)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateOverrideEntry:
    """Another rate for some clients, which share it."""

    rate: Rate
    """Requests a second."""
    clients: tuple[str, ...]
    """Their identities."""

    def __post_init__(self) -> None:
        self.value()

    def value(self) -> RateOverride:
        """Return the value."""
        return RateOverride(self.rate, self.clients)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitEntry:
    """How many requests a second may come (Linkerd: HTTPLocalRateLimitPolicy)."""

    total: Rate | None = None
    """Of all clients together."""
    identity: Rate | None = None
    """Of each client by the identity that it proved; those that proved none share one."""
    address: Rate | None = None
    """Of each address whose clients proved no identity, in the place of the one that they share."""
    overrides: tuple[RateOverrideEntry, ...] = ()
    """Other rates, for clients that are named."""
    burst: Duration = 1.0
    """For how long a time's worth of requests may come at once."""
    max_clients: Annotated[int, Range(1, 1_000_000)] = 10_000
    """Identities, and addresses, that are told apart; those beyond share one rate."""

    def __post_init__(self) -> None:
        if self.total is None and self.identity is None and self.address is None and not self.overrides:
            raise InvalidConfiguration("a rate limit without a rate limits nothing: give total, identity or address")
        self.layer()

    def layer(self) -> RateLimit[Exchange]:
        """Return the layer."""
        overrides = [one.value() for one in self.overrides]
        return RateLimit(self.total, self.identity, overrides, self.burst, self.max_clients, self.address)
