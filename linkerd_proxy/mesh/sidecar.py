"""Both sides of a sidecar as one stack, told apart by the port that a connection came to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from linkerd_proxy.address import Address
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Connection

__all__ = ["Sidecar"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar(Stack[Connection]):
    """Serves the listeners of both sides; they share an identity that both name.

    Args:
        inbound: Serves connections to the application here.
        outbound: Serves connections that the application makes.
        outbound_ports: The ports of the outbound listeners.
    """

    inbound: Stack[Connection]
    outbound: Stack[Connection]
    outbound_ports: frozenset[int] = frozenset({4140})

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        """Open both sides and yield the live service."""
        async with opened(self.inbound) as inbound, opened(self.outbound) as outbound:
            ports = self.outbound_ports

            def service(connection: Connection) -> Awaitable[None]:
                local = connection.local
                return (outbound if isinstance(local, Address) and local.port in ports else inbound)(connection)

            yield service

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return both."""
        return [("inbound", self.inbound), ("outbound", self.outbound)]

    def title(self) -> str:
        """Return the line without the branches."""
        return f"Sidecar(outbound_ports={{{', '.join(map(str, sorted(self.outbound_ports)))}}})"
