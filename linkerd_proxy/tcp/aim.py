"""The layer that says of dials what is known about whom they reach."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Dial
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.names import check_identity

__all__ = ["Aim"]


@dataclass(frozen=True, slots=True, repr=False)
class Aim(Layer[Dial, Dial]):
    """Says which identity the target of every dial must prove, and where its proxy listens; the address stays.

    It stands before the layers that heed that: ``Aim("web.mesh.local", 4143) | SendTransportHeader() |
    Originate(identity) | Connect()``.

    Args:
        identity: The name that the target must prove.
        tagged_port: The port of its proxy that reads transport headers (Linkerd: 4143), or None to dial it where it is.
    """

    identity: str
    tagged_port: int | None = None

    def __post_init__(self) -> None:
        check_identity(self.identity, f"Aim({self.identity!r})")
        if self.tagged_port is not None and not 0 < self.tagged_port < 65536:
            raise InvalidConfiguration(f"Aim(tagged_port={self.tagged_port}) is no port: give one from 1 to 65535")

    @asynccontextmanager
    async def open(self, inner: Service[Dial]) -> AsyncIterator[Service[Dial]]:
        """Yield the live service."""

        def service(dial: Dial) -> Awaitable[None]:
            target = replace(dial.target, identity=self.identity, tagged_port=self.tagged_port)
            return inner(replace(dial, target=target))

        yield service
