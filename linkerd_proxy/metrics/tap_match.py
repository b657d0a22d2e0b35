"""Which requests and connections a tap wants to see."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from linkerd_proxy.address import Address, AnyAddress
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["Match", "Wanted"]


class Wanted(Protocol):
    """Says which requests and connections a tap wants."""

    def exchange(self, exchange: Exchange, labels: Mapping[str, str]) -> bool:
        """Whether an exchange is wanted, at a layer with these labels."""
        ...

    def connection(self, connection: Connection, labels: Mapping[str, str]) -> bool:
        """Whether a connection is wanted, at a layer with these labels."""
        ...


@dataclass(frozen=True, slots=True)
class Match:
    """What must be true of a request or a connection; what is left empty may be anything.

    Args:
        method: The method; like the next two, it lets no connection pass that is not HTTP.
        path: How the path begins.
        authority: The authority, with its port if it has one; ``*.example.com`` for all below.
        source: The client's address or network, as in ``10.0.0.0/8``.
        port: The port that the client connected to, or meant to.
        client_id: The client's identity; ``*.ns.svc`` for all that end so.
        labels: Labels that the :class:`~linkerd_proxy.metrics.tap.Tap` layer was given.

    Raises:
        InvalidConfiguration: if ``source`` is no network.
    """

    method: str = ""
    path: str = ""
    authority: str = ""
    source: str = ""
    port: int | None = None
    client_id: str = ""
    labels: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        if self.source:
            self._network()

    def _network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        try:
            return ipaddress.ip_network(self.source, strict=False)
        except ValueError as error:
            raise InvalidConfiguration(
                f"{self.source!r} is no network: give an address, or one such as 10.0.0.0/8"
            ) from error

    def exchange(self, exchange: Exchange, labels: Mapping[str, str]) -> bool:
        """Whether an exchange is wanted."""
        request = exchange.request
        if self.method and request.method != self.method.upper():
            return False
        if self.path and not request.path.startswith(self.path):
            return False
        if self.authority and not _fits(request.authority.lower(), self.authority.lower()):
            return False
        return self._connection(exchange.connection, labels)

    def connection(self, connection: Connection, labels: Mapping[str, str]) -> bool:
        """Whether a connection is wanted."""
        return not (self.method or self.path or self.authority) and self._connection(connection, labels)

    def _connection(self, connection: Connection, labels: Mapping[str, str]) -> bool:
        if self.port is not None and _port(connection.original_dst or connection.local) != self.port:
            return False
        identity = connection.tls.peer_identity if connection.tls is not None else None
        if self.client_id and not _fits(identity or "", self.client_id):
            return False
        if any(labels.get(name) != value for name, value in self.labels):
            return False
        return not self.source or self._from_source(connection.peer)

    def _from_source(self, peer: AnyAddress) -> bool:
        return isinstance(peer, Address) and peer.is_ip and ipaddress.ip_address(peer.host) in self._network()


def _fits(value: str, pattern: str) -> bool:
    return value.endswith(pattern[1:]) if pattern.startswith("*.") else value == pattern


def _port(address: AnyAddress) -> int | None:
    return address.port if isinstance(address, Address) else None
