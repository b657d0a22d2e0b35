"""The layer that lets connections for other clusters through a gateway."""

from __future__ import annotations

from dataclasses import dataclass

from linkerd_proxy.address import is_under
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Connection
from linkerd_proxy.errors import Denied, GatewayDomain, LoopDetected

__all__ = ["GatewayConnections"]


@dataclass(frozen=True, slots=True)
class GatewayConnections(Layer[Connection, Connection]):
    """Passes a meshed peer's connection on to the name that its transport header gave: ``Forward`` dials that name.

    What goes round from gateway to gateway is stopped by the count in the header.

    Args:
        identity: The gateway's own, by which it knows a connection of its own.
        suffixes: The domains under which names may be reached; the empty one allows every name.

    Raises:
        GatewayDomain: for another name, or without one.
        Denied: for a client without an identity.
        LoopDetected: if the client is this gateway.
    """

    identity: str
    suffixes: tuple[str, ...]

    async def serve(self, work: Connection, inner: Service[Connection]) -> None:
        """Pass the connection on if it may go there."""
        name = work.target_name
        if name is None or not is_under(name, self.suffixes):
            problem = f"this gateway does not lead to {name or 'a place without a name'!r}"
            raise GatewayDomain(problem, layer="GatewayConnections")
        client = work.tls.peer_identity if work.tls is not None else None
        if client is None:
            raise Denied("a client without an identity asks for a gateway", layer="GatewayConnections")
        if client == self.identity:
            raise LoopDetected("the connection comes from this gateway", layer="GatewayConnections")
        return await inner(work)
