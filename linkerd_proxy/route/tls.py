"""Routes for TLS connections by the name that the client asks for, without decrypting anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import trio

from linkerd_proxy.address import split_authority
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Connection
from linkerd_proxy.errors import DetectTimeout, InvalidConfiguration, NoRoute
from linkerd_proxy.io.hear import Heard, hear
from linkerd_proxy.route.key import parse_host

__all__ = ["TlsRoute"]

_SHOWN = 120  # characters of what the client asked for that an error repeats


@dataclass(frozen=True, slots=True, repr=False)
class TlsRoute(Stack[Connection]):
    """Sends each TLS connection down the branch for its SNI (Gateway API: TLSRoute).

    The ClientHello is read and put back, so a branch may pass the connection on as it is, or terminate it. Where TLS
    was terminated outside already, the name of that handshake counts and nothing is read.

    A key is a name or ``*.example.com``, which takes every name below it. The exact name wins, then the longest
    wildcard; then ``otherwise``.

    Args:
        routes: The branches by name.
        otherwise: For other names, clients that name none, and what is no TLS. Without it, a client that closes before
            it said anything is served nothing and is no error.
        timeout: Seconds that the client has to send its ClientHello, in all.

    Raises:
        InvalidConfiguration: for a name that none can be, for two that match the same, and for no branch at all.
        NoRoute: (when serving) if no branch is for the connection.
        DetectTimeout: (when serving) if the ClientHello took too long.
    """

    routes: Mapping[str, Stack[Connection]]
    otherwise: Stack[Connection] | None = None
    timeout: float = 10.0

    def __post_init__(self) -> None:
        names: dict[str, Stack[Connection]] = {}
        for text, stack in self.routes.items():
            name = parse_host(text, text)
            if split_authority(name)[1]:
                raise InvalidConfiguration(f"{text!r} is no name of TLS: leave out the port, SNI has none")
            if name in names:
                raise InvalidConfiguration(f"TlsRoute has {name!r} twice: keep one of them")
            names[name] = stack
        if not names and self.otherwise is None:
            raise InvalidConfiguration("TlsRoute has no routes: give it at least {'example.com': ...}")
        if self.timeout <= 0:
            raise InvalidConfiguration(f"TlsRoute(timeout={self.timeout!r}): give more than 0 seconds")
        object.__setattr__(self, "routes", MappingProxyType(names))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        """Open every branch, and yield the live service."""
        async with AsyncExitStack() as exits:
            live = {name: await exits.enter_async_context(opened(stack)) for name, stack in self.routes.items()}
            otherwise = None
            if self.otherwise is not None:
                otherwise = await exits.enter_async_context(opened(self.otherwise))

            async def service(connection: Connection) -> None:
                if connection.tls is not None:
                    name = connection.tls.server_name
                else:
                    heard = await self._hear(connection.stream)
                    if not heard.data and otherwise is None:
                        return  # a probe or a scan: nobody to serve, and no failure either
                    name = None if heard.hello is None else heard.hello.server_name
                    connection = connection.with_stream(heard.put_back())
                inner = _find(live, name) or otherwise
                if inner is None:
                    asked = f"the server name {name[:_SHOWN]!r}" if name else "clients that name no server by TLS"
                    raise NoRoute(f"no route for {asked}", layer="TlsRoute", remedy="add one, or an otherwise")
                await inner(connection)

            yield service

    async def _hear(self, stream: trio.abc.HalfCloseableStream) -> Heard:
        with trio.move_on_after(self.timeout):
            return await hear(stream)
        raise DetectTimeout(
            "the client's ClientHello was not complete",
            layer="TlsRoute",
            waited=self.timeout,
            remedy="look into the client, or raise TlsRoute(timeout=...)",
        )

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return the branches by their names."""
        rest = [] if self.otherwise is None else [("otherwise", self.otherwise)]
        return [*self.routes.items(), *rest]

    def title(self) -> str:
        """Return the line without the branches."""
        return "TlsRoute()"


def _find(live: Mapping[str, Service[Connection]], name: str | None) -> Service[Connection] | None:
    if name is None:
        return None
    name = name.lower().removesuffix(".")
    found = live.get(name)
    dot = name.find(".", 1)
    while found is None and dot > 0:
        found = live.get("*" + name[dot:])
        dot = name.find(".", dot + 1)
    return found
