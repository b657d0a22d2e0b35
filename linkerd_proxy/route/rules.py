"""Routes as values: hosts, and rules of what to match, what to change and where to send it (Gateway API)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from linkerd_proxy.core.stack import Layer, Service, Stack
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration, NoBackend
from linkerd_proxy.route.key import parse_host
from linkerd_proxy.route.match import GrpcMatch, Match
from linkerd_proxy.route.redirect import PathFilter

__all__ = ["AnyRoute", "Filter", "GrpcRoute", "HttpRoute", "Rule"]

Filter: TypeAlias = Layer[Exchange, Exchange]
"""What changes or answers a request on its way: any layer of exchanges."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Sends what any of its matches fits through filters to a backend.

    Args:
        matches: One is enough; none at all takes everything.
        backend: Where it goes: any stack, a ``Split`` among them. A request that
            reaches a rule without one gets 500 (Gateway API).
        filters: Layers that it passes before that, in order. ``Redirect`` and ``Rewrite`` learn the matched prefix.

    Raises:
        InvalidConfiguration: if a filter replaces a matched prefix and a match has none.
    """

    matches: Sequence[Match] | Sequence[GrpcMatch] = ()
    backend: Stack[Exchange] | None = None
    filters: Sequence[Filter] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "matches", tuple(self.matches))
        object.__setattr__(self, "filters", tuple(self.filters))
        for match in self.matches:
            self.stack_for(match)

    def stack_for(self, match: Match | GrpcMatch) -> Stack[Exchange]:
        """Return filters and backend as one stack, as they are for what ``match`` fits."""
        stack: Stack[Exchange] = _NO_BACKEND if self.backend is None else self.backend
        for filter_ in reversed(self.filters):
            stack = (filter_.matched(match.prefix) if isinstance(filter_, PathFilter) else filter_) | stack
        return stack

    @property
    def needs_prefix(self) -> bool:
        """Whether what a rule does depends on which of its matches fits."""
        return any(isinstance(filter_, PathFilter) and filter_.needs_prefix for filter_ in self.filters)


@dataclass(frozen=True, slots=True)
class _Routed:
    """What HTTP and gRPC routes have in common."""

    rules: Sequence[Rule] = ()
    hosts: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        hosts = (self.hosts,) if isinstance(self.hosts, str) else self.hosts
        object.__setattr__(self, "hosts", tuple(parse_host(host, host) for host in hosts))
        for rule in self.rules:
            for match in rule.matches:
                if not isinstance(match, self._kind()):
                    name, kind = type(self).__name__, self._kind().__name__
                    raise InvalidConfiguration(f"{name} can't match {match!r}: give it a {kind}")

    def _kind(self) -> type[Match | GrpcMatch]:
        raise NotImplementedError

    def matches(self) -> Iterator[tuple[str, Match | GrpcMatch, Rule]]:
        """Give out every host with every match, in order, and the rule that it belongs to."""
        for rule in self.rules:
            for match in rule.matches or (self._kind()(),):
                for host in self.hosts or ("",):
                    yield host, match, rule


@dataclass(frozen=True, slots=True)
class HttpRoute(_Routed):
    """Rules for HTTP requests to some hosts (Gateway API: HTTPRoute).

    Args:
        rules: In order; one without any matches nothing, so that requests get 404.
        hosts: ``host`` or ``*.example.com``, which takes every name below it, perhaps with a port; none takes any.

    Raises:
        InvalidConfiguration: for a host that none can be, or a rule with matches of gRPC.
    """

    def _kind(self) -> type[Match | GrpcMatch]:
        return Match


@dataclass(frozen=True, slots=True)
class GrpcRoute(_Routed):
    """Rules for gRPC calls to some hosts (Gateway API: GRPCRoute).

    It takes POST requests in HTTP/2 whose content type is gRPC's and whose path is ``/service/method``, nothing else.
    HTTP/1 can't carry a call, whose outcome is in trailers: such a request is for an :class:`HttpRoute`, or gets 404.
    (Linkerd speaks nothing but HTTP/2 where a destination has routes for gRPC.)

    Args:
        rules: As in :class:`HttpRoute`, with matches that are :class:`~linkerd_proxy.route.match.GrpcMatch`.
        hosts: As in :class:`HttpRoute`.
    """

    def _kind(self) -> type[Match | GrpcMatch]:
        return GrpcMatch


AnyRoute: TypeAlias = HttpRoute | GrpcRoute


@dataclass(frozen=True, slots=True)
class _NoBackend(Stack[Exchange]):
    """Where requests end that a rule takes and nobody serves."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Exchange]]:
        async def service(exchange: Exchange) -> None:
            path = exchange.request.path.partition("?")[0]
            raise NoBackend(f"the rule for {path[:120]!r} has no backend", layer="Route")

        yield service

    def __repr__(self) -> str:
        return "no backend"


_NO_BACKEND = _NoBackend()
