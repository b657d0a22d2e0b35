"""The parts of a configuration that are Linkerd's service profiles, in the words of its ServiceProfile resource."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol, TypeVar

from linkerd_proxy.core.message import Request
from linkerd_proxy.core.stack import Layer, Stack
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.document.shape import Duration, Range
from linkerd_proxy.mesh.config.resilience import BudgetEntry
from linkerd_proxy.mesh.config.words import BackendRefs, Labels, named_backends, own_labels
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.retry.budget import Budget
from linkerd_proxy.retry.conditions import IDEMPOTENT
from linkerd_proxy.retry.retry import Retry
from linkerd_proxy.retry.timeouts import Timeouts
from linkerd_proxy.route.match import Regex
from linkerd_proxy.route.profile import (
    AllOf,
    AnyOf,
    Condition,
    MethodIs,
    Not,
    PathMatches,
    ProfileRoute,
    ResponseClass,
    ServiceProfile,
    StatusBetween,
    WeightedDst,
)

__all__ = [
    "ConditionEntry",
    "ProfileEntry",
    "ProfileRouteEntry",
    "ResponseClassEntry",
    "ResponseConditionEntry",
    "RouteStacks",
    "StatusRangeEntry",
]

S = TypeVar("S")

_METHODS = (*IDEMPOTENT, "PATCH", "POST")
_GRPC = "unavailable,unknown,internal,data-loss"  # failures of the server's that another try may spare


class _Valued(Protocol[S]):
    def value(self) -> Condition[S]: ...


def _combined(
    parts: list[Condition[S]],
    all_of: Sequence[_Valued[S]] | None,
    any_of: Sequence[_Valued[S]] | None,
    not_: _Valued[S] | None,
) -> Condition[S]:
    """Return the one condition that a mapping's keys make together."""
    if all_of is not None:
        parts.append(AllOf([one.value() for one in all_of]))
    if any_of is not None:
        parts.append(AnyOf([one.value() for one in any_of]))
    if not_ is not None:
        parts.append(Not(not_.value()))
    return parts[0] if len(parts) == 1 else AllOf(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionEntry:
    """What is asked of a request; where several keys are given all must hold."""

    path_regex: str | None = None
    """A regular expression that the whole path matches, its query left out."""
    method: str | None = None
    """The method, as ``GET``."""
    all: tuple[ConditionEntry, ...] | None = None
    """Conditions that must all hold; of none, always."""
    any: tuple[ConditionEntry, ...] | None = None
    """Conditions of which one must hold; of none, never."""
    not_: ConditionEntry | None = field(default=None, metadata={"name": "not"})
    """A condition that must not hold."""

    def __post_init__(self) -> None:
        self.value()

    def value(self) -> Condition[Request]:
        """Return the value."""
        parts: list[Condition[Request]] = []
        if self.path_regex is not None:
            parts.append(PathMatches(Regex(self.path_regex)))
        if self.method is not None:
            parts.append(MethodIs(self.method))
        return _combined(parts, self.all, self.any, self.not_)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRangeEntry:
    """Statuses of HTTP."""

    min: Annotated[int, Range(100, 599)]
    """The first one."""
    max: Annotated[int, Range(100, 599)]
    """The last one."""

    def __post_init__(self) -> None:
        self.value()

    def value(self) -> StatusBetween:
        """Return the value."""
        return StatusBetween(self.min, self.max)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseConditionEntry:
    """What is asked of an answer; where several keys are given all must hold."""

    status: StatusRangeEntry | None = None
    """The range that its status is in."""
    all: tuple[ResponseConditionEntry, ...] | None = None
    """Conditions that must all hold; of none, always."""
    any: tuple[ResponseConditionEntry, ...] | None = None
    """Conditions of which one must hold; of none, never."""
    not_: ResponseConditionEntry | None = field(default=None, metadata={"name": "not"})
    """A condition that must not hold."""

    def value(self) -> Condition[int]:
        """Return the value."""
        parts: list[Condition[int]] = []
        if self.status is not None:
            parts.append(self.status.value())
        return _combined(parts, self.all, self.any, self.not_)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseClassEntry:
    """Says of some answers whether they are failures, for retries and for the metrics of the route."""

    condition: ResponseConditionEntry
    """Which answers."""
    is_failure: bool = True
    """Whether they are failures."""

    def value(self) -> ResponseClass:
        """Return the value."""
        return ResponseClass(self.condition.value(), self.is_failure)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRouteEntry:
    """What to do with some requests to a service."""

    condition: ConditionEntry
    """Which requests."""
    response_classes: tuple[ResponseClassEntry, ...] = ()
    """Which answers are failures; the first that fits decides, and for all others 5xx are."""
    labels: Labels = field(default_factory=dict)
    """Labels under which these requests are counted once more, beside those of the listener."""
    is_retryable: bool = False
    """Whether these requests, of any method, may be repeated when they failed."""
    timeout: Duration | None = None
    """That they may take, tries and all."""

    def __post_init__(self) -> None:
        own_labels(self.labels)
        if self.timeout is not None:
            Timeouts(request=self.timeout)

    def value(self) -> ProfileRoute:
        """Return the value."""
        classes = [one.value() for one in self.response_classes]
        return ProfileRoute(self.condition.value(), classes, self.labels, self.is_retryable, self.timeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileEntry:
    """What is known about a service beside where it is (Linkerd: ServiceProfile)."""

    routes: tuple[ProfileRouteEntry, ...] = ()
    """In order; the first whose condition holds decides, and what none takes goes on as it is."""
    retry_budget: BudgetEntry = field(default_factory=BudgetEntry)
    """How many retries there may be, of all routes together."""
    retry_limit: Annotated[int, Range(1, 100)] = 3
    """How many retries one request may have."""
    dst_overrides: BackendRefs = ()
    """Backends that requests go to in the place of this one, which may be among them."""

    @property
    def retries(self) -> bool:
        """Whether it repeats anything."""
        return any(route.is_retryable for route in self.routes)

    def value(self) -> ServiceProfile:
        """Return the value; an override's authority is the name of a backend."""
        overrides = [WeightedDst(name, weight) for name, weight in named_backends(self.dst_overrides)]
        return ServiceProfile([route.value() for route in self.routes], overrides)


@dataclass(frozen=True, slots=True)
class RouteStacks:
    """Makes the stack of a route from its hints.

    Args:
        service: Where requests go.
        budget: For the retries of all routes.
        limit: Retries of one request.
        labels: For the metrics.
    """

    service: Stack[Exchange]
    budget: Budget
    limit: int
    labels: Mapping[str, str]

    def __call__(self, route: ProfileRoute) -> Stack[Exchange]:
        """Return the stack."""
        layers: list[Layer[Exchange, Exchange]] = []
        if route.labels:
            layers.append(Metrics({**self.labels, **route.labels}, route.classify))
        if route.timeout is not None:
            layers.append(Timeouts(request=route.timeout))
        if route.is_retryable:
            statuses = route.failure_statuses
            retry = Retry(self.budget, self.limit, statuses, _GRPC, _METHODS, labels=self.labels)
            layers.append(retry)
        stack = self.service
        for layer in reversed(layers):
            stack = layer | stack
        return stack
