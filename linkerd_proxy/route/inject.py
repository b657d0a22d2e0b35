"""The filter that makes some requests fail or wait on purpose, to see what their callers do."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import trio

from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import GrpcStatus, Injected, InvalidConfiguration

__all__ = ["Inject"]


@dataclass(frozen=True, slots=True, repr=False)
class Inject(Layer[Exchange, Exchange]):
    """Makes a part of the requests wait, fail, or both (Linkerd: HttpFailureInjector, GrpcFailureInjector).

    Args:
        ratio: Which part of the requests, from 0 to 1.
        status: The HTTP status to fail with, or None only to delay.
        grpc_status: The gRPC status to fail with (Linkerd: ``FAILED_PRECONDITION`` if only ``status`` is given).
        delay: Seconds to wait before that.
        message: What the answer's ``l5d-proxy-error`` says.
        dice: Where chance comes from.

    Raises:
        Injected: (when serving) for those that are to fail; ``Rescue`` answers with the status.
        InvalidConfiguration: for a ratio or a status that none can be, or for nothing to do.
    """

    ratio: float
    status: int | None = None
    grpc_status: GrpcStatus | None = None
    delay: float = 0.0
    message: str = "a failure was injected"
    dice: Random = field(default_factory=Random, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise InvalidConfiguration(f"Inject({self.ratio!r}): give a ratio from 0 to 1")
        if self.status is not None and not 400 <= self.status <= 599:
            raise InvalidConfiguration(f"Inject(status={self.status!r}): give a status from 400 to 599")
        if self.delay < 0:
            raise InvalidConfiguration(f"Inject(delay={self.delay!r}): give 0 seconds or more")
        if self.status is None and self.grpc_status is None and not self.delay:
            raise InvalidConfiguration(f"Inject({self.ratio!r}) does nothing: give a status or a delay")

    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        """Fail, wait, or let the request pass."""
        if self.dice.random() < self.ratio:
            if self.delay:
                await trio.sleep(self.delay)
            if self.status is not None or self.grpc_status is not None:
                error = Injected(self.message, self.status or 500, layer="Inject")
                if self.grpc_status is not None:
                    error.grpc_status = self.grpc_status  # type: ignore[misc]  # the one that the configuration names
                raise error
        await inner(work)
