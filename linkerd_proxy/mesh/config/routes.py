"""The parts of a configuration that send work to backends: routes and their rules (Gateway API)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from linkerd_proxy.core.stack import Layer, Stack
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.config.filters import FilterEntry, MirrorEntry
from linkerd_proxy.mesh.config.matches import GrpcMatchEntry, HttpMatchEntry
from linkerd_proxy.mesh.config.policies import PolicyOrName
from linkerd_proxy.mesh.config.resilience import RateLimitEntry, RetryEntry, TimeoutsEntry
from linkerd_proxy.mesh.config.words import BackendRefs
from linkerd_proxy.route.opaque import OpaqueRoute
from linkerd_proxy.route.rules import HttpRoute, Rule
from linkerd_proxy.route.tls import TlsRoute

__all__ = ["GrpcRouteEntry", "GrpcRuleEntry", "HttpRouteEntry", "HttpRuleEntry", "TcpRouteEntry", "TlsRouteEntry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _RuleEntry:
    """What rules for HTTP and for gRPC have in common."""

    matches: tuple[HttpMatchEntry, ...] | tuple[GrpcMatchEntry, ...] = ()
    """One is enough; none at all takes everything."""
    filters: tuple[FilterEntry, ...] = ()
    """What is changed on the way, in order."""
    backend_refs: BackendRefs = ()
    """Where it goes; to none, if a filter answers."""
    timeouts: TimeoutsEntry | None = None
    """Deadlines."""
    retry: RetryEntry | None = None
    """Tries, each of which may go to another backend; only where the backends have none of their own."""
    policy: PolicyOrName | None = None
    """Who may, beside what the listener says."""
    rate_limit: RateLimitEntry | None = None
    """How many may come, beside what the listener says."""

    def __post_init__(self) -> None:
        self.rule(None, [one.layer() for one in self.filters if not isinstance(one, MirrorEntry)])
        if not self.backend_refs and not self.filters:
            raise InvalidConfiguration("the rule goes nowhere: give it backend_refs, or a filter that answers")

    def rule(self, backend: Stack[Exchange] | None, layers: Sequence[Layer[Exchange, Exchange]]) -> Rule:
        """Return the rule.

        Args:
            backend: Where requests go, or None.
            layers: What they pass before that.

        Raises:
            InvalidConfiguration: if a filter replaces a prefix where a match has none.
        """
        matches: list[Any] = [match.match() for match in self.matches]  # all of one kind
        return Rule(matches, backend, layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRuleEntry(_RuleEntry):
    """What to do with requests that one of the matches fits (Gateway API: HTTPRouteRule)."""

    matches: tuple[HttpMatchEntry, ...] = ()
    """One is enough; none at all takes everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcRuleEntry(_RuleEntry):
    """What to do with calls that one of the matches fits (Gateway API: GRPCRouteRule)."""

    matches: tuple[GrpcMatchEntry, ...] = ()
    """One is enough; none at all takes every call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _RouteEntry:
    """What routes for HTTP and for gRPC have in common."""

    hostnames: tuple[str, ...] = ()
    """``host`` or ``*.example.com``, perhaps with a port; none takes any."""
    rules: tuple[HttpRuleEntry, ...] | tuple[GrpcRuleEntry, ...]
    """What to do with them; the rule that says most wins, wherever it stands."""

    def __post_init__(self) -> None:
        HttpRoute((), self.hostnames)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRouteEntry(_RouteEntry):
    """Rules for HTTP requests to some hosts (Gateway API: HTTPRoute)."""

    rules: tuple[HttpRuleEntry, ...]
    """What to do with them; the rule that says most wins, wherever it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcRouteEntry(_RouteEntry):
    """Rules for gRPC calls to some hosts (Gateway API: GRPCRoute)."""

    rules: tuple[GrpcRuleEntry, ...]
    """What to do with them; the rule that says most wins, wherever it stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsRouteEntry:
    """TLS connections that ask for some names, passed on as they are (Gateway API: TLSRoute)."""

    hostnames: tuple[str, ...]
    """``host`` or ``*.example.com``."""
    backend_refs: BackendRefs
    """Where they go."""

    def __post_init__(self) -> None:
        TlsRoute(dict.fromkeys(self.hostnames, _NOWHERE))


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpRouteEntry:
    """Connections to some destinations, of which nothing else is known (Gateway API: TCPRoute)."""

    destinations: tuple[str, ...]
    """A network, ``:port``, ``network:port``, or ``*``: compared with where the client was going."""
    backend_refs: BackendRefs
    """Where they go."""

    def __post_init__(self) -> None:
        OpaqueRoute(dict.fromkeys(self.destinations, _NOWHERE))


_NOWHERE = Stack[Connection]()
