"""The layer that sends each request down the branch that its host and path choose."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration, NoRoute
from linkerd_proxy.route.match import Key, Table, parse_key

__all__ = ["Route"]

_SHOWN = 120  # characters of what the client asked for that an error repeats


@dataclass(frozen=True, slots=True, repr=False)
class Route(Stack[Exchange]):
    """Sends each request to the branch whose key matches it best.

    A key is ``/prefix``, ``host/prefix``, ``*.example.com/prefix`` or ``host``. An exact host comes before the longest
    wildcard, which comes before a key without a host; then the longest prefix wins (Linkerd, Gateway API). A prefix
    matches whole segments: ``/api`` matches ``/api`` and ``/api/v1`` but not ``/apis``. The query is ignored; so is the
    port, unless the key has one; hosts are compared without regard to case.

    Paths are compared as the client sent them: whoever decides *access* by a prefix must know that servers may read
    ``/a/../b`` and ``/%62`` as ``/b``.

    Args:
        routes: The branches by key.

    Raises:
        InvalidConfiguration: for a key that can't be read, for two that match the same, and for no route at all.
        NoRoute: (when serving) if no key matches.
    """

    routes: Mapping[str, Stack[Exchange]]

    def __post_init__(self) -> None:
        if not self.routes:
            raise InvalidConfiguration("Route has no routes: give it at least {'/': ...}")
        object.__setattr__(self, "routes", MappingProxyType(dict(self.routes)))
        self._keys()

    def _keys(self) -> dict[str, Key]:
        keys: dict[str, Key] = {}
        seen: dict[Key, str] = {}
        for text in self.routes:
            key = keys[text] = parse_key(text)
            if key in seen:
                raise InvalidConfiguration(f"routes {seen[key]!r} and {text!r} match the same: keep one of them")
            seen[key] = text
        return keys

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Exchange]]:
        """Open every branch, compile the table, and yield the live service."""
        async with AsyncExitStack() as exits:
            live: dict[Key, Service[Exchange]] = {}
            for text, key in self._keys().items():
                live[key] = await exits.enter_async_context(opened(self.routes[text]))
            table = Table(live)

            async def service(exchange: Exchange) -> None:
                request = exchange.request
                inner = table.find(request.authority, request.path)
                if inner is None:
                    raise _no_route(table, request.authority, request.path)
                await inner(exchange)

            yield service

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return the branches by their keys."""
        return list(self.routes.items())

    def title(self) -> str:
        """Return the line without the branches."""
        return "Route()"

    def __repr__(self) -> str:
        return f"Route({dict(self.routes)!r})"


def _no_route(table: Table[Service[Exchange]], authority: str, path: str) -> NoRoute:
    authority, path = authority[:_SHOWN], path.partition("?")[0][:_SHOWN]
    return NoRoute(
        f"no route for host {authority!r} and path {path!r}",
        layer="Route",
        remedy=f"the nearest is {str(table.nearest(authority, path))!r}; add one for it, or '/' for everything",
    )
