"""Stacks that an assembly of several listeners needs: which listener it was, and whether TLS ended here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from linkerd_proxy.address import Address, AnyAddress
from linkerd_proxy.core.stack import Layer, Service, Stack, opened
from linkerd_proxy.core.work import Connection
from linkerd_proxy.errors import HandshakeFailed, NoRoute
from linkerd_proxy.io.options import TcpOptions
from linkerd_proxy.io.streams import SocketStream

__all__ = ["ByListener", "Nowhere", "OnlyTls", "SocketOptions"]

_EVERYWHERE = {"", "0.0.0.0", "::"}


@dataclass(frozen=True, slots=True, repr=False)
class ByListener(Stack[Connection]):
    """Serves several listeners, each by its own stack, told apart by the address that a connection came to.

    Args:
        stacks: The stacks, by the listeners' names.
        addresses: Where each listens. An address of every interface stands for all with that port.

    Raises:
        NoRoute: (when serving) for a connection that came in elsewhere.
    """

    stacks: Mapping[str, Stack[Connection]]
    addresses: Mapping[str, Sequence[AnyAddress]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "stacks", MappingProxyType(dict(self.stacks)))
        object.__setattr__(self, "addresses", MappingProxyType({k: tuple(v) for k, v in self.addresses.items()}))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        """Open all of them, and yield the live service."""
        async with AsyncExitStack() as exits:
            exact: dict[AnyAddress, Service[Connection]] = {}
            by_port: dict[int, Service[Connection]] = {}
            for name, stack in self.stacks.items():
                inner = await exits.enter_async_context(opened(stack))
                for address in self.addresses.get(name, ()):
                    if isinstance(address, Address) and address.host in _EVERYWHERE:
                        by_port[address.port] = inner
                    else:
                        exact[address] = inner

            async def service(connection: Connection) -> None:
                local = connection.local
                found = exact.get(local)
                if found is None and isinstance(local, Address):
                    found = by_port.get(local.port)
                if found is None:
                    raise NoRoute(
                        f"no listener is configured for connections to {local}",
                        layer="ByListener",
                        remedy="connect to one of the configured addresses",
                    )
                await found(connection)

            yield service

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return the stacks by where they listen."""
        return [
            (f"{name} on {', '.join(map(str, self.addresses.get(name, ())))}", stack)
            for name, stack in self.stacks.items()
        ]

    def title(self) -> str:
        """Return the line without the branches."""
        return "ByListener()"


@dataclass(frozen=True, slots=True)
class Nowhere(Stack[Connection]):
    """What is meant for an application here, at a listener that is a gateway and nothing else.

    Serving raises:
        NoRoute: always.
    """

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        """Yield the service that refuses."""

        async def service(connection: Connection) -> None:
            raise NoRoute(
                f"{connection.peer} asks for no name elsewhere, and this is a gateway",
                layer="Nowhere",
                remedy="ask for a name that the gateway leads to, or give the listener backend_refs",
            )

        yield service


@dataclass(frozen=True, slots=True)
class SocketOptions(Layer[Connection, Connection]):
    """Sets options on the sockets of clients, whoever accepted them.

    Args:
        options: What is set.
    """

    options: TcpOptions

    async def serve(self, work: Connection, inner: Service[Connection]) -> None:
        """Serve the connection with the options."""
        if isinstance(work.stream, SocketStream):
            with suppress(OSError):  # a client that is gone already; what serves it will see
                self.options.apply(work.stream.socket)
        await inner(work)


@dataclass(frozen=True, slots=True)
class OnlyTls(Layer[Connection, Connection]):
    """Lets in what came by TLS that ended here: stands right behind ``Terminate``.

    Raises:
        HandshakeFailed: for everything else.
    """

    async def serve(self, work: Connection, inner: Service[Connection]) -> None:
        """Serve the connection if it was decrypted."""
        if work.tls is None:
            came = f"TLS for {work.sni[:120]!r}" if work.sni else "none of this proxy's TLS"
            raise HandshakeFailed(
                f"{work.peer} sent {came}", layer="OnlyTls", remedy="speak TLS, or say tls: {required: false}"
            )
        await inner(work)
