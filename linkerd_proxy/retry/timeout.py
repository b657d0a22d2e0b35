"""A deadline for a whole piece of work."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from typing_extensions import TypeVar

from linkerd_proxy.core.expiry import open_expiry
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration, ResponseTimeout

__all__ = ["Timeout"]

W = TypeVar("W", default=Exchange)


@dataclass(frozen=True, slots=True, repr=False)
class Timeout(Layer[W, W]):
    """Gives each piece of work a deadline: a connection, an exchange, or a dial with what it is used for.

    For an exchange it counts from the request's head to the last byte of the answer (Linkerd's ``request`` timeout).
    When it expires, everything inside is cancelled. A client that has no answer yet gets 504 from ``Rescue``; one that
    has a part of it sees its message aborted.

    Args:
        seconds: More than 0.

    Raises:
        ResponseTimeout: if the deadline expired; never because of a cancellation from outside.
    """

    seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise InvalidConfiguration(f"Timeout({self.seconds!r}): give a number of seconds greater than 0")

    @asynccontextmanager
    async def open(self, inner: Service[W]) -> AsyncIterator[Service[W]]:
        """Yield the live service."""
        async with open_expiry(self.seconds) as expiry:

            async def service(work: W) -> None:
                with expiry.limiting() as limited:
                    await inner(work)
                if limited.cancelled_caught:
                    raise ResponseTimeout(
                        f"the {type(work).__name__.lower()} was not complete", layer="Timeout", waited=expiry.seconds
                    )

            yield service
