"""Who a client is to a policy: the network that it comes from, and what it proved by TLS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from linkerd_proxy.address import Address
from linkerd_proxy.core.work import Connection
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.names import check_identity

__all__ = ["Authentication", "Network", "TlsAuthenticated", "TlsUnauthenticated", "Unauthenticated"]

_AnyNetwork: TypeAlias = IPv4Network | IPv6Network
_AnyIp: TypeAlias = IPv4Address | IPv6Address


def parse_network(text: str) -> _AnyNetwork:
    """Read ``10.0.0.0/8``, ``fd00::/8`` or one address. Raises InvalidConfiguration for anything else."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise InvalidConfiguration(f"{text!r} is no network: {error}; write for example '10.0.0.0/8'") from None


def ip_of(connection: Connection) -> _AnyIp | None:
    """Return the client's IP address, an IPv4 address in an IPv6 one as what it is; None for a Unix socket."""
    peer = connection.peer
    if not isinstance(peer, Address):
        return None
    try:
        address = ip_address(peer.host.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


@dataclass(frozen=True, slots=True)
class Network:
    """A network without some parts of it.

    Args:
        net: ``10.0.0.0/8``, ``fd00::/8``, or one address.
        excepted: Networks inside it that don't belong (Linkerd: except).

    Raises:
        InvalidConfiguration: for a text that is no network.
    """

    net: str
    excepted: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "excepted", tuple(self.excepted))
        for text in (self.net, *self.excepted):
            parse_network(text)

    def __contains__(self, address: object) -> bool:
        return address in parse_network(self.net) and not any(address in parse_network(net) for net in self.excepted)


@dataclass(frozen=True, slots=True)
class Unauthenticated:
    """Takes every client, whatever it proved."""

    def admits(self, connection: Connection) -> bool:
        """Whether this is such a client."""
        return True


@dataclass(frozen=True, slots=True)
class TlsUnauthenticated:
    """Takes clients that came by TLS, even those that proved no identity."""

    def admits(self, connection: Connection) -> bool:
        """Whether this is such a client."""
        return connection.tls is not None


@dataclass(frozen=True, slots=True)
class TlsAuthenticated:
    """Takes clients that proved an identity by mutual TLS.

    Args:
        identities: Names that are taken as they are, DNS-like or ``spiffe://``; ``*`` takes every proven identity.
        suffixes: ``*.ns.example`` takes every DNS-like name below ``ns.example``, and never a URI.

    Raises:
        InvalidConfiguration: if there are neither, so that nobody could come in, or a name that nobody can prove.
    """

    identities: Sequence[str] = ()
    suffixes: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "identities", tuple(map(_identity, self.identities)))
        object.__setattr__(self, "suffixes", tuple("." + _suffix(suffix) for suffix in self.suffixes))
        for identity in self.identities:
            if identity != "*":
                check_identity(identity, f"TlsAuthenticated(identities=[{identity!r}])")
        if not self.identities and not self.suffixes:
            raise InvalidConfiguration("TlsAuthenticated() admits nobody: name identities, or '*' for every one")

    def admits(self, connection: Connection) -> bool:
        """Whether this is such a client."""
        identity = None if connection.tls is None else connection.tls.peer_identity
        if identity is None:
            return False
        if "*" in self.identities or _identity(identity) in self.identities:
            return True
        return "://" not in identity and identity.lower().endswith(tuple(self.suffixes))


def _identity(text: str) -> str:
    """Return an identity as it is compared: DNS names without regard to case, URIs letter by letter."""
    return text if "://" in text else text.lower()


def _suffix(text: str) -> str:
    name = text.lower().removeprefix("*").removeprefix(".")
    if not name or "*" in name or "://" in name:
        raise InvalidConfiguration(f"{text!r} is no suffix of identities: write '*.ns.example'")
    return name


Authentication: TypeAlias = Unauthenticated | TlsUnauthenticated | TlsAuthenticated
"""What a client has to have proved."""
