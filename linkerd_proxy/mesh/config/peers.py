"""The parts of a configuration that name other proxies of the mesh by where work is going, and the gateway to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

from linkerd_proxy.document.shape import Duration, Range
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.peer import MeshPeer
from linkerd_proxy.names import check_identity
from linkerd_proxy.tcp.destinations import parse_destination

__all__ = ["GatewayEntry", "MeshPeerEntry", "Peers", "mesh_peers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshPeerEntry:
    """A destination that is behind a proxy of the mesh. A bare text is its identity."""

    identity: str
    """The name that its proxy must prove by mutual TLS."""
    tagged_port: Annotated[int, Range(1, 65535)] | None = 4143
    """Where its proxy reads transport headers (Linkerd: 4143), or null for the destination's own port."""


Peers: TypeAlias = Mapping[str, MeshPeerEntry | str]
"""By ``host:port``, or a host alone for all its ports."""


def mesh_peers(peers: Peers) -> dict[str, MeshPeer]:
    """Return the values.

    Raises:
        InvalidConfiguration: for what is no destination, or no identity.
    """
    found: dict[str, MeshPeer] = {}
    seen: dict[tuple[str, int | None], str] = {}
    for where, peer in peers.items():
        other = seen.setdefault(parse_destination(where), where)
        if other != where:
            raise InvalidConfiguration(f"the peers {other!r} and {where!r} are the same: keep one")
        entry = MeshPeerEntry(identity=peer) if isinstance(peer, str) else peer
        check_identity(entry.identity, f"{entry.identity!r} of the peer {where}")
        found[where] = MeshPeer(entry.identity, entry.tagged_port)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayEntry:
    """Leads other proxies of the mesh on to names elsewhere that they ask for, and nothing round in a circle.

    The listener's policy and limits of HTTP hold for them; its routes, timeouts and rates are for what is meant here.
    """

    suffixes: tuple[str, ...]
    """The domains under which names may be reached, as ``svc.west.example``; an empty text is every name."""
    name: str | None = None
    """The proxy's own name, by which it knows what has been here before; by default that of its certificate."""
    peers: Peers = field(default_factory=dict)
    """Which of the names are behind proxies of the mesh: by ``host:port``, or a host for all its ports."""
    connect_timeout: Duration = 1.0
    """For each connection."""
    local: bool = False
    """Whether names may lead to this host after all, as peers may."""

    def __post_init__(self) -> None:
        if not self.suffixes:
            raise InvalidConfiguration("a gateway without suffixes leads nowhere: name the domains that it leads to")
        if not self.connect_timeout > 0:
            raise InvalidConfiguration("connect_timeout: 0s never connects: give more")
        if self.name is not None:
            check_identity(self.name, repr(self.name))
        mesh_peers(self.peers)
