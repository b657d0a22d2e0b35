"""Linkerd's service profiles: routes with hints on what to do, and which answers are failures.

Source: linkerd2-proxy-api, destination.proto, and linkerd2-proxy, linkerd/service-profiles.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic

from typing_extensions import TypeVar

from linkerd_proxy.core.classify import Verdict, classify
from linkerd_proxy.core.message import Request
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.route.match import Regex
from linkerd_proxy.route.split import Backend, Split

__all__ = [
    "AllOf",
    "AnyOf",
    "Condition",
    "MethodIs",
    "Not",
    "PathMatches",
    "ProfileRoute",
    "ResponseClass",
    "ServiceProfile",
    "StatusBetween",
    "WeightedDst",
    "WithProfile",
]

S = TypeVar("S")

_NO_LABELS: Mapping[str, str] = MappingProxyType({})


class Condition(Generic[S]):
    """Something that holds for a request, or for a response's status, or does not."""

    __slots__ = ()

    def holds(self, subject: S) -> bool:
        """Whether it holds."""
        raise NotImplementedError


@dataclass(frozen=True)
class AllOf(Condition[S]):
    """Holds if all of its conditions do; without any, always."""

    conditions: Sequence[Condition[S]] = ()

    def holds(self, subject: S) -> bool:
        """Whether it holds."""
        return all(condition.holds(subject) for condition in self.conditions)


@dataclass(frozen=True)
class AnyOf(Condition[S]):
    """Holds if one of its conditions does; without any, never."""

    conditions: Sequence[Condition[S]] = ()

    def holds(self, subject: S) -> bool:
        """Whether it holds."""
        return any(condition.holds(subject) for condition in self.conditions)


@dataclass(frozen=True)
class Not(Condition[S]):
    """Holds if its condition does not."""

    condition: Condition[S]

    def holds(self, subject: S) -> bool:
        """Whether it holds."""
        return not self.condition.holds(subject)


@dataclass(frozen=True)
class PathMatches(Condition[Request]):
    """Holds for requests whose whole path, without its query, matches a regular expression."""

    regex: Regex

    def holds(self, subject: Request) -> bool:
        """Whether it holds."""
        return self.regex.pattern.fullmatch(subject.path.partition("?")[0]) is not None


@dataclass(frozen=True)
class MethodIs(Condition[Request]):
    """Holds for requests with a method."""

    method: str

    def holds(self, subject: Request) -> bool:
        """Whether it holds."""
        return subject.method == self.method


@dataclass(frozen=True)
class StatusBetween(Condition[int]):
    """Holds for statuses from ``min`` to ``max``, both included."""

    min: int
    max: int

    def __post_init__(self) -> None:
        if not 100 <= self.min <= self.max <= 599:
            raise InvalidConfiguration(f"StatusBetween({self.min}, {self.max}): give two statuses, the lower first")

    def holds(self, subject: int) -> bool:
        """Whether it holds."""
        return self.min <= subject <= self.max


@dataclass(frozen=True, slots=True)
class ResponseClass:
    """Says of some responses whether they are failures."""

    condition: Condition[int]
    is_failure: bool = True


@dataclass(frozen=True, slots=True)
class ProfileRoute:
    """What to do with some requests to a service: hints for the layers that serve them.

    Args:
        condition: Which requests.
        response_classes: Which answers are failures; the first that fits decides.
        labels: For metrics.
        is_retryable: Whether these requests may be repeated.
        timeout: Seconds that they may take, or None.
    """

    condition: Condition[Request] = field(default_factory=AllOf[Request])
    response_classes: Sequence[ResponseClass] = ()
    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS, hash=False)
    is_retryable: bool = False
    timeout: float | None = None

    def classify(self, status: int, grpc_status: str = "", error: str = "") -> Verdict:
        """Return whether an answer is a success, for breakers and metrics: ``Balance(..., classify=route.classify)``.

        An answer with an error, or that no class is for, is judged as usual.
        """
        if status and not error:
            for one in self.response_classes:
                if one.condition.holds(status):
                    return "failure" if one.is_failure else "success"
        return classify(status, grpc_status, error)

    @property
    def failure_statuses(self) -> str:
        """The statuses that are failures, as ``Retry(http=...)`` takes them: ``500-599``, for example."""
        ranges: list[list[int]] = []
        for status in range(400, 600):
            if self.classify(status) == "failure":
                if ranges and ranges[-1][1] == status - 1:
                    ranges[-1][1] = status
                else:
                    ranges.append([status, status])
        return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


@dataclass(frozen=True, slots=True)
class WeightedDst:
    """Another service that gets a part of the requests.

    Args:
        authority: Its name and port.
        weight: Its part, relative to the others'; 0 for none.
    """

    authority: str
    weight: float


@dataclass(frozen=True, slots=True)
class ServiceProfile:
    """What is known about a service beside where it is.

    Args:
        routes: In order; the first whose condition holds decides, and after all of them comes one for the rest.
        dst_overrides: Where requests go instead of to the service, or empty.
    """

    routes: Sequence[ProfileRoute] = ()
    dst_overrides: Sequence[WeightedDst] = ()

    def destination(self, default: Stack[Exchange], override: Callable[[str], Stack[Exchange]]) -> Stack[Exchange]:
        """Return where requests go: a split over the overrides that have a weight, or ``default`` if none has.

        Args:
            default: The service itself.
            override: Makes the stack for the authority of an override.
        """
        backends = [Backend(override(o.authority), o.weight, o.authority) for o in self.dst_overrides if o.weight > 0]
        return Split(backends) if backends else default


@dataclass(frozen=True, slots=True)
class WithProfile(Stack[Exchange]):
    """Serves each request by the stack that was made for its route of a profile.

    Args:
        profile: The routes.
        serve: Makes the stack for a route from its hints; each is made and opened once. What all routes share (the
            balancer) is made outside, and named inside.
    """

    profile: ServiceProfile
    serve: Callable[[ProfileRoute], Stack[Exchange]]

    def _stacks(self) -> list[tuple[ProfileRoute, Stack[Exchange]]]:
        return [(route, self.serve(route)) for route in (*self.profile.routes, ProfileRoute())]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Exchange]]:
        """Open the stack of every route, and yield the live service."""
        async with AsyncExitStack() as exits:
            stacks = self._stacks()
            live = [(route.condition, await exits.enter_async_context(opened(stack))) for route, stack in stacks]
            *routes, (_, rest) = live

            async def service(exchange: Exchange) -> None:
                for condition, inner in routes:
                    if condition.holds(exchange.request):
                        await inner(exchange)
                        return
                await rest(exchange)

            yield service

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return the stacks by the labels of their routes, or their places."""
        return [
            (" ".join(f"{name}={value}" for name, value in route.labels.items()) or str(place), stack)
            for place, (route, stack) in enumerate(self._stacks(), 1)
        ]

    def title(self) -> str:
        """Return the line without the branches."""
        return "WithProfile()"
