"""The layer that lets requests for other clusters through a gateway, and none of them round in a circle."""

from __future__ import annotations

from dataclasses import dataclass

from linkerd_proxy.address import Address, AnyAddress, is_under
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import Denied, GatewayDomain, LoopDetected
from linkerd_proxy.http.forwarded import make_element, parse_forwarded
from linkerd_proxy.io.loops import MAX_HOPS

__all__ = ["GatewayRequests"]

_DEFAULT_PORT = 80


@dataclass(frozen=True, slots=True)
class GatewayRequests(Layer[Exchange, Exchange]):
    """Passes a meshed peer's request on to the name that its transport header gave, and says so in ``Forwarded``.

    The request's authority becomes that name, whatever its client wrote into ``Host``. To where it goes, the
    connection's ``original_dst`` says already.

    Args:
        identity: The gateway's own, by which it knows a request that was here before.
        suffixes: The domains under which names may be reached; the empty one allows every name.

    Raises:
        GatewayDomain: for another name, or without one.
        Denied: for a client without an identity.
        LoopDetected: if the client is this gateway, or the request was here before, or at ten gateways.
        BadRequest: for a malformed ``Forwarded``.
    """

    identity: str
    suffixes: tuple[str, ...]

    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        """Serve the exchange with a request for the gateway's target."""
        connection, request = work.connection, work.request
        name = connection.target_name
        if name is None or not is_under(name, self.suffixes):
            raise GatewayDomain(
                f"this gateway does not lead to {name or 'a place without a name'!r}", layer="GatewayRequests"
            )
        client = connection.tls.peer_identity if connection.tls is not None else None
        if client is None:
            raise Denied("a client without an identity asks for a gateway", layer="GatewayRequests")
        been = parse_forwarded(request.headers.get_all("forwarded"))
        if client == self.identity or any(element.get("by") == self.identity for element in been):
            raise LoopDetected("the request has been at this gateway before", layer="GatewayRequests")
        if len(been) >= MAX_HOPS:
            raise LoopDetected(f"the request has been at {MAX_HOPS} proxies before", layer="GatewayRequests")
        headers = request.headers.copy()
        element = make_element(by=self.identity, for_=client, host=request.authority, proto="https")
        headers.add("forwarded", element)
        authority = self._authority(request.authority, name, connection.original_dst)
        await inner(work.asking(request.replace(headers=headers, authority=authority)))

    @staticmethod
    def _authority(said: str, name: str, target: AnyAddress | None) -> str:
        """Return the client's authority where it names the target, or else the target's."""
        host, _, port = said.partition(":")
        meant = target.port if isinstance(target, Address) else _DEFAULT_PORT
        if host.lower().removesuffix(".") == name and (port or str(_DEFAULT_PORT)) == str(meant):
            return said
        return name if meant == _DEFAULT_PORT else f"{name}:{meant}"
