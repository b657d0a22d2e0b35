"""The stack that sends work down the branch for where its client was going."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias

from typing_extensions import TypeVar

from linkerd_proxy.address import Address, AnyAddress, parse_address
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Connection, Dial, Exchange
from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["Destinations", "parse_destination"]

W = TypeVar("W", bound=Connection | Exchange | Dial, default=Connection)

_Key: TypeAlias = tuple[str, int | None]


@dataclass(frozen=True, slots=True, repr=False)
class Destinations(Stack[W], Generic[W]):
    """Sends connections, exchanges or dials down the branch for where they were going.

    Args:
        table: By ``host:port``, or by a host alone for all its ports; the one with the port wins. Hosts
            are IP addresses, since that is what the kernel tells of redirected connections, or the names that a
            gateway's clients ask for.
        otherwise: Serves all the rest, and what has no original destination.
    """

    table: Mapping[str, Stack[W]]
    otherwise: Stack[W]

    def __post_init__(self) -> None:
        seen: dict[_Key, str] = {}
        for text in self.table:
            key = parse_destination(text)
            if key in seen:
                raise InvalidConfiguration(f"Destinations has {seen[key]!r} and {text!r}, which are the same: keep one")
            seen[key] = text

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[W]]:
        """Open the branches and yield the live service."""
        async with AsyncExitStack() as exits:
            services: dict[_Key, Service[W]] = {}
            for text, branch in self.table.items():
                services[parse_destination(text)] = await exits.enter_async_context(opened(branch))
            otherwise = await exits.enter_async_context(opened(self.otherwise))

            def service(work: W) -> Awaitable[None]:
                return _found(services, _destination(work), otherwise)(work)

            yield service

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return the branches by destination, and the rest."""
        return [*self.table.items(), ("otherwise", self.otherwise)]

    def title(self) -> str:
        """Return the line without the branches."""
        return "Destinations()"


def _destination(work: Connection | Exchange | Dial) -> AnyAddress | None:
    if isinstance(work, Dial):
        return work.target.address
    return (work if isinstance(work, Connection) else work.connection).original_dst


def _found(table: Mapping[_Key, Service[W]], address: AnyAddress | None, otherwise: Service[W]) -> Service[W]:
    if not isinstance(address, Address):
        return otherwise
    return table.get((address.host, address.port)) or table.get((address.host, None)) or otherwise


def parse_destination(text: str) -> tuple[str, int | None]:
    """Read ``host:port``, or an IP address alone, whose port is then None.

    Raises:
        InvalidConfiguration: if it is neither.
    """
    try:
        return str(ipaddress.ip_address(text)), None
    except ValueError:
        pass
    address = parse_address(text, default_port=0)
    if not isinstance(address, Address) or not address.host:
        raise InvalidConfiguration(f"{text!r} is no destination: give host:port, or an address for all its ports")
    return address.host, address.port or None
