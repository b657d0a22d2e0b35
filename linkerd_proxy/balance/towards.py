"""The layer that aims dials at an endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from linkerd_proxy.core.endpoint import Endpoint
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Dial

__all__ = ["Towards"]


@dataclass(frozen=True, slots=True, repr=False)
class Towards(Layer[Dial, Dial]):
    """Gives every dial an endpoint as its target: address, identity, server name, tagged port and labels.

    It stands before the layers that need them: ``Client() | Towards(endpoint) | Originate(identity) | Connect()``. What
    will be spoken stays as the dial says.

    Args:
        endpoint: Whom to reach.
    """

    endpoint: Endpoint

    @asynccontextmanager
    async def open(self, inner: Service[Dial]) -> AsyncIterator[Service[Dial]]:
        """Yield the live service."""
        aim = self.endpoint.target(self.endpoint.protocol)

        def service(dial: Dial) -> Awaitable[None]:
            spoken = dial.target.protocol
            target = aim if spoken is None or spoken == aim.protocol else replace(aim, protocol=spoken)
            if dial.target.beyond is not None:  # what to ask a gateway for is no property of the gateway
                target = replace(target, beyond=dial.target.beyond)
            return inner(Dial(target, dial.use, dial.client, dial.destination))

        yield service
