"""The layer that sends each request down the branch that matches it best."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from linkerd_proxy.core.message import Request
from linkerd_proxy.core.notes import current_notes
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration, NoRoute
from linkerd_proxy.route.key import Key, parse_key
from linkerd_proxy.route.match import GrpcMatch, Match
from linkerd_proxy.route.rules import AnyRoute, Rule
from linkerd_proxy.route.table import Table

__all__ = ["Route"]

_SHOWN = 120  # characters of what the client asked for that an error repeats
_Branch: TypeAlias = tuple[str, Service[Exchange]]  # what matched, in words, and where it goes


@dataclass(frozen=True, slots=True, repr=False)
class Route(Stack[Exchange]):
    """Sends each request to the branch that matches it best.

    The short form is a mapping. A key is ``/prefix``, ``host/prefix``, ``*.example.com/prefix`` or ``host``. The long
    form is a sequence of :class:`~linkerd_proxy.route.rules.HttpRoute` and
    :class:`~linkerd_proxy.route.rules.GrpcRoute`, whose rules also match headers, query parameters and methods, and
    have filters.

    An exact host comes before the longest wildcard, which comes before any host. Among those of one host an exact path
    comes before the longest prefix, before a regular expression, before any path (Gateway API); and among those the
    one with more header matches, with more query matches, with a method, and the earlier one (Linkerd). A prefix
    matches whole segments: ``/api`` matches ``/api`` and ``/api/v1`` but not ``/apis``. The port is ignored unless a
    host has one; hosts are compared without regard to case.

    Paths are compared as the client sent them: whoever decides *access* by a prefix must know that servers may read
    ``/a/../b`` and ``/%62`` as ``/b``.

    Args:
        routes: The branches by key, or routes.

    Raises:
        InvalidConfiguration: for a key that can't be read, for two that match the same, and for no route at all.
        NoRoute: (when serving) if nothing matches.
        NoBackend: (when serving) if the rule that matches has no backend.
    """

    routes: Mapping[str, Stack[Exchange]] | Sequence[AnyRoute]

    def __post_init__(self) -> None:
        if isinstance(self.routes, Mapping):
            if not self.routes:
                raise InvalidConfiguration("Route has no routes: give it at least {'/': ...}")
            object.__setattr__(self, "routes", MappingProxyType(dict(self.routes)))
            _keys(self.routes)
        else:
            object.__setattr__(self, "routes", tuple(self.routes))

    def _matches(self) -> Iterator[tuple[str, Match | GrpcMatch, Rule]]:
        if isinstance(self.routes, Mapping):
            for text, key in _keys(self.routes).items():
                yield key.host, Match(key.path or "/"), Rule((), self.routes[text])
        else:
            for route in self.routes:
                yield from route.matches()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Exchange]]:
        """Open every branch, compile the table, and yield the live service."""
        async with AsyncExitStack() as exits:
            live: dict[tuple[int, str | None], Service[Exchange]] = {}
            rules: list[Rule] = []  # keeps the ids taken
            matches: list[tuple[str, Match | GrpcMatch, _Branch]] = []
            for host, match, rule in self._matches():
                rules.append(rule)
                key = (id(rule), match.prefix if rule.needs_prefix else None)
                if key not in live:  # a rule with several matches has one live chain of filters
                    live[key] = await exits.enter_async_context(opened(rule.stack_for(match)))
                matches.append((host, match, (f"{host} {match}".lstrip(), live[key])))
            table = Table(matches)

            def service(exchange: Exchange) -> Awaitable[None]:
                branch = table.find(exchange.request)
                if branch is None:
                    raise _no_route(table, exchange.request)
                name, inner = branch
                notes = current_notes()
                if notes is not None:
                    notes.route = name
                return inner(exchange)

            yield service

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return the branches by their keys, or by what they match."""
        if isinstance(self.routes, Mapping):
            return list(self.routes.items())
        return [(f"{host} {match}".lstrip(), rule.stack_for(match)) for host, match, rule in self._matches()]

    def title(self) -> str:
        """Return the line without the branches."""
        return "Route()"

    def __repr__(self) -> str:
        routes = self.routes
        return f"Route({dict(routes) if isinstance(routes, Mapping) else list(routes)!r})"


def _keys(routes: Mapping[str, Stack[Exchange]]) -> dict[str, Key]:
    keys: dict[str, Key] = {}
    seen: dict[Key, str] = {}
    for text in routes:
        key = keys[text] = parse_key(text)
        if key in seen:
            raise InvalidConfiguration(f"routes {seen[key]!r} and {text!r} match the same: keep one of them")
        seen[key] = text
    return keys


def _no_route(table: Table[_Branch], request: Request) -> NoRoute:
    authority, path = request.authority[:_SHOWN], request.path.partition("?")[0][:_SHOWN]
    nearest = table.nearest(authority, path)
    remedy = f"the nearest is {nearest!r}; add one for it" if nearest else "there are no rules at all; add one for it"
    if request.version.startswith("1") and (request.headers.get("content-type") or "").startswith("application/grpc"):
        remedy = f"routes for gRPC take HTTP/2 alone, and this came in HTTP/{request.version}; {remedy}"
    return NoRoute(
        f"no route for host {authority!r} and path {path!r}", layer="Route", remedy=f"{remedy}, or '/' for everything"
    )
