"""The stack that treats clients that proved who they are otherwise than the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Connection

__all__ = ["Meshed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meshed(Stack[Connection]):
    """Sends connections from other proxies of the mesh down a branch of their own.

    Args:
        meshed: Serves connections whose client proved an identity by its certificate.
        otherwise: Serves all the rest.
    """

    meshed: Stack[Connection]
    otherwise: Stack[Connection]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        """Open both branches and yield the live service."""
        async with opened(self.meshed) as meshed, opened(self.otherwise) as otherwise:

            def service(connection: Connection) -> Awaitable[None]:
                tls = connection.tls
                return (otherwise if tls is None or tls.peer_identity is None else meshed)(connection)

            yield service

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return both."""
        return [("meshed", self.meshed), ("otherwise", self.otherwise)]

    def title(self) -> str:
        """Return the line without the branches."""
        return "Meshed()"
