"""Endpoints that are known from the start and never change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from linkerd_proxy.address import AnyAddress, check_target, parse_address
from linkerd_proxy.core.endpoint import Endpoint, Resolution, Resolve
from linkerd_proxy.discover.publish import Published
from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["Static"]


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Static(Resolve):
    """A fixed set of endpoints.

    Args:
        endpoints: Each an address (as :func:`~linkerd_proxy.address.parse_address` reads it) or an
            :class:`~linkerd_proxy.core.endpoint.Endpoint` that says more. A host that is a name is looked up anew at
            each connection, and is one endpoint however many addresses it has; ``Dns`` makes one of each.

    Raises:
        InvalidConfiguration: if there is none, if one is no address, or if two have the same.
    """

    endpoints: tuple[Endpoint, ...]

    def __init__(self, *endpoints: str | AnyAddress | Endpoint) -> None:
        if not endpoints:
            raise InvalidConfiguration("Static() has no endpoints: give it addresses, as in Static('10.0.0.1:80')")
        read = tuple(map(_endpoint, endpoints))
        seen: set[AnyAddress] = set()
        for endpoint in read:
            check_target(endpoint.address)
            if endpoint.address in seen:
                raise InvalidConfiguration(f"Static() names {endpoint.address} twice: give it a weight instead")
            seen.add(endpoint.address)
        object.__setattr__(self, "endpoints", read)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Resolution]:
        """Yield the resolution."""
        published = Published()
        published.publish(self.endpoints)
        yield published

    def example(self) -> Endpoint:
        """Return the first one."""
        return self.endpoints[0]

    def __repr__(self) -> str:
        shown = (repr(str(one.address) if one == Endpoint(one.address) else one) for one in self.endpoints)
        return f"Static({', '.join(shown)})"


def _endpoint(given: str | AnyAddress | Endpoint) -> Endpoint:
    if isinstance(given, Endpoint):
        return given
    if isinstance(given, str):
        return Endpoint(parse_address(given))
    if not isinstance(given, AnyAddress):  # a list of them, above all
        raise InvalidConfiguration(f"Static({given!r}): give each address by itself, as in Static('10.0.0.1:80', ...)")
    return Endpoint(given)
