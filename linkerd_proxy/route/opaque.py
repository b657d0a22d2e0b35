"""Routes for connections of which nothing is known but where they go to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from types import MappingProxyType
from typing import Any, Generic, TypeAlias

from typing_extensions import TypeVar

from linkerd_proxy.address import Address, AnyAddress
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Connection
from linkerd_proxy.errors import InvalidConfiguration, NoRoute

__all__ = ["OpaqueRoute"]

T = TypeVar("T")

_Network: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, repr=False)
class OpaqueRoute(Stack[Connection]):
    """Sends each connection down the branch for where it was meant to go: its original destination, or else its port.

    A key is a network (``10.0.0.0/8``, ``[fd00::]/8``), an address, ``:port``, both (``10.0.0.0/8:5432``,
    ``[fd00::/8]:5432``), or ``*``. The longest network wins; where they are equally long, one with a port; ``*`` takes
    what is left.

    Args:
        routes: The branches by key; a :class:`~linkerd_proxy.route.split.Split` of connections may be one.

    Raises:
        InvalidConfiguration: for a key that can't be read, for two that match the same, and for no route at all.
        NoRoute: (when serving) if nothing matches.
    """

    routes: Mapping[str, Stack[Connection]]

    def __post_init__(self) -> None:
        if not self.routes:
            raise InvalidConfiguration("OpaqueRoute has no routes: give it at least {'*': ...}")
        object.__setattr__(self, "routes", MappingProxyType(dict(self.routes)))
        _Destinations(self.routes)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        """Open every branch, and yield the live service."""
        async with AsyncExitStack() as exits:
            live = {key: await exits.enter_async_context(opened(stack)) for key, stack in self.routes.items()}
            destinations = _Destinations(live)

            async def service(connection: Connection) -> None:
                address = connection.original_dst or connection.local
                inner = destinations.find(address)
                if inner is None:
                    raise NoRoute(
                        f"no route for connections to {address}", layer="OpaqueRoute", remedy="add one, or '*' for all"
                    )
                await inner(connection)

            yield service

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return the branches by their keys."""
        return list(self.routes.items())

    def title(self) -> str:
        """Return the line without the branches."""
        return "OpaqueRoute()"


class _Destinations(Generic[T]):
    """Values by network and port, the best first."""

    __slots__ = ("_rules",)

    def __init__(self, routes: Mapping[str, T]) -> None:
        rules: dict[tuple[_Network | None, int | None], tuple[str, T]] = {}
        for text, value in routes.items():
            key = _parse(text)
            if key in rules:
                raise InvalidConfiguration(f"routes {rules[key][0]!r} and {text!r} match the same: keep one of them")
            rules[key] = (text, value)
        ordered = sorted(rules.items(), key=lambda item: _rank(*item[0]))
        self._rules = [(network, port, value) for (network, port), (_, value) in ordered]

    def find(self, address: AnyAddress) -> T | None:
        """Return the best match's value, or None."""
        if isinstance(address, Address) and address.is_ip:
            ip = ip_address(address.host.partition("%")[0])
            if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
                ip = ip.ipv4_mapped
        else:
            ip = None
        number = address.port if isinstance(address, Address) else None
        for network, port, value in self._rules:
            if (network is None or (ip is not None and ip in network)) and (port is None or port == number):
                return value
        return None


def _rank(network: _Network | None, port: int | None) -> tuple[int, bool]:
    return (1 if network is None else -network.prefixlen, port is None)


def _parse(text: str) -> tuple[_Network | None, int | None]:
    """Read a key as a network, or None for any, and a port, or None for any."""
    if text == "*":
        return None, None
    net, port = text, None
    head, colon, tail = text.rpartition(":")
    if colon and (text.count(":") == 1 or head.endswith("]")):
        net = head
        if not (tail.isascii() and tail.isdigit() and 0 < int(tail[:6]) <= 65535):
            raise InvalidConfiguration(f"{text!r} is no route: {tail!r} is no port; give a number from 1 to 65535")
        port = int(tail)
    if not net and port is not None:
        return None, port
    try:
        return ip_network(net.replace("[", "").replace("]", "")), port
    except ValueError as error:
        raise InvalidConfiguration(f"{text!r} is no route: {error}; write a network, ':port' or '*'") from None
