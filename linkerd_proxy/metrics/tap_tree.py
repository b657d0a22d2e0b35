"""Matches put together: all of some, any of some, not one, and the parts of a request one by one."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from linkerd_proxy.address import Address, AnyAddress
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.metrics.tap_match import Wanted

__all__ = ["AllOf", "AnyOf", "End", "Head", "Label", "Not"]


class _OfRequests:
    """Wants requests, and no connections."""

    __slots__ = ()

    def connection(self, connection: Connection, labels: Mapping[str, str]) -> bool:
        """Whether a connection is wanted: never."""
        return False


@dataclass(frozen=True, slots=True)
class AllOf(_OfRequests):
    """Every one of some; without any, everything."""

    parts: tuple[Wanted, ...] = ()

    def exchange(self, exchange: Exchange, labels: Mapping[str, str]) -> bool:
        """Whether an exchange is wanted."""
        return all(part.exchange(exchange, labels) for part in self.parts)


@dataclass(frozen=True, slots=True)
class AnyOf(_OfRequests):
    """At least one of some; without any, nothing."""

    parts: tuple[Wanted, ...]

    def exchange(self, exchange: Exchange, labels: Mapping[str, str]) -> bool:
        """Whether an exchange is wanted."""
        return any(part.exchange(exchange, labels) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Not(_OfRequests):
    """What another one does not want."""

    part: Wanted

    def exchange(self, exchange: Exchange, labels: Mapping[str, str]) -> bool:
        """Whether an exchange is wanted."""
        return not self.part.exchange(exchange, labels)


@dataclass(frozen=True, slots=True)
class End(_OfRequests):
    """One end of the connection.

    Args:
        which: The client's, or the one that it meant to reach.
        network: Where its address lies, if that matters.
        ports: The lowest and the highest port, if they matter.
    """

    which: Literal["source", "destination"]
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    ports: tuple[int, int] = (0, 65535)

    def exchange(self, exchange: Exchange, labels: Mapping[str, str]) -> bool:
        """Whether an exchange is wanted."""
        connection = exchange.connection
        address: AnyAddress = connection.peer if self.which == "source" else connection.original_dst or connection.local
        if not isinstance(address, Address) or not self.ports[0] <= address.port <= self.ports[1]:
            return False
        if self.network is None:
            return True
        return address.is_ip and ipaddress.ip_address(address.host.partition("%")[0]) in self.network


@dataclass(frozen=True, slots=True)
class Head(_OfRequests):
    """One part of the request's head.

    Args:
        part: Which.
        value: What it is.
        prefix: Whether it need only begin so.
    """

    part: Literal["scheme", "method", "authority", "path"]
    value: str
    prefix: bool = False

    def exchange(self, exchange: Exchange, labels: Mapping[str, str]) -> bool:
        """Whether an exchange is wanted."""
        found: str = getattr(exchange.request, self.part)
        return found.startswith(self.value) if self.prefix else found == self.value


@dataclass(frozen=True, slots=True)
class Label(_OfRequests):
    """A label of the :class:`~linkerd_proxy.metrics.tap.Tap` layer."""

    name: str
    value: str

    def exchange(self, exchange: Exchange, labels: Mapping[str, str]) -> bool:
        """Whether an exchange is wanted."""
        return labels.get(self.name) == self.value
