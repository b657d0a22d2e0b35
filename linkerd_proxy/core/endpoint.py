"""Endpoints, and how they become known: what discovery tells and balancing hears."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TypeAlias

from linkerd_proxy.address import Address, AnyAddress
from linkerd_proxy.core.shared import Resource
from linkerd_proxy.core.work import Protocol, Target
from linkerd_proxy.names import check_identity

__all__ = ["Add", "Endpoint", "Gone", "Remove", "Reset", "Resolution", "Resolve", "Update"]

_NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """One place that serves a name.

    Args:
        address: Where it listens.
        weight: Its share of the work beside others, 0 for none.
        identity: The name that it must prove by mutual TLS, or None where it has none.
        server_name: The SNI to ask for; by default the identity, where that is DNS-like.
        protocol: What it speaks, where that is known: ``http/2`` lets HTTP/1 be upgraded, ``opaque`` rules HTTP out.
        tagged_port: The port of the endpoint's own proxy that reads transport headers, if it has one (Linkerd: 4143).
        zone: The failure domain that it runs in, or empty.
        labels: For metrics; bounded by whoever configured the discovery.

    Raises:
        InvalidConfiguration: if nobody can prove that name.
    """

    address: AnyAddress
    weight: float = 1.0
    identity: str | None = None
    server_name: str | None = None
    protocol: Protocol | None = None
    tagged_port: int | None = None
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS, hash=False)

    def __post_init__(self) -> None:
        if self.identity is not None:
            check_identity(self.identity, f"Endpoint(identity={self.identity!r})")

    def target(self, protocol: Protocol | None = None, *, beyond: Address | None = None) -> Target:
        """Return it as whom a dial shall reach, to speak ``protocol``, and as a gateway to what lies ``beyond``."""
        return Target(
            self.address, self.identity, self.server_name, protocol, self.labels, self.tagged_port, beyond=beyond
        )

    def __repr__(self) -> str:
        values = [(item, getattr(self, item.name)) for item in fields(self)[1:]]
        told = [f"{item.name}={value!r}" for item, value in values if value and value != item.default]
        return f"Endpoint({', '.join([repr(str(self.address)), *told])})"


@dataclass(frozen=True, slots=True)
class Reset:
    """These are all the endpoints; what was known before is forgotten."""

    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Add:
    """These endpoints came, or changed: one with a known address replaces what was known of it."""

    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Remove:
    """The endpoints at these addresses went."""

    addresses: tuple[AnyAddress, ...]


@dataclass(frozen=True, slots=True)
class Gone:
    """The name does not exist (any more): there is nobody to wait for."""

    problem: str


Update: TypeAlias = Reset | Add | Remove | Gone


class Resolution:
    """An open resolution: the set as it is, and its changes."""

    __slots__ = ()

    def updates(self) -> AsyncIterator[Update]:
        """Return the updates for one reader: first a :class:`Reset` (or :class:`Gone`) that tells where things stand as
        soon as that is known, then each change. It never ends; a reader that is slow gets one Reset in the place of
        what it missed, so nothing piles up. Each call makes a reader of its own.
        """  # noqa: D205
        raise NotImplementedError


class Resolve(Resource[Resolution]):
    """Where endpoints become known: a value, opened once and shared by all who name it.

    Sources keep the last good set for as long as they can't learn a better one.
    """

    __slots__ = ()

    def example(self) -> Endpoint | None:
        """Return one endpoint if any is known before opening: for drawing what is made of each."""
        return None
