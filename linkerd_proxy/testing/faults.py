"""Faults: connections that are refused, slow, cut short or reset, at points that a test chooses or a seed does."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import trio

from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Dial
from linkerd_proxy.errors import ConnectFailed, InvalidConfiguration

__all__ = ["Faults", "FaultyStream", "Point"]

Point: TypeAlias = int | range
"""A number of bytes; of a range, the seed picks one."""


class FaultyStream(trio.abc.HalfCloseableStream):
    """A stream that fails on purpose.

    Args:
        stream: What it reads and writes through.
        latency: Seconds before each receive.
        reset_after: After so many received bytes the connection is reset; None never.
        truncate_after: After so many received bytes the stream ends as if in order; None never.
    """

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        *,
        latency: float = 0.0,
        reset_after: int | None = None,
        truncate_after: int | None = None,
    ) -> None:
        self.stream = stream
        self.latency = latency
        self.reset_after = reset_after
        self.truncate_after = truncate_after
        self.received: int = 0
        self._reset = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return what has come, up to the next fault's point."""
        if self.latency:
            await trio.sleep(self.latency)
        room = 65536 if max_bytes is None else max_bytes
        if self.reset_after is not None:
            if self.received >= self.reset_after:
                await self._break()
            room = min(room, self.reset_after - self.received)
        if self.truncate_after is not None:
            if self.received >= self.truncate_after:
                await trio.lowlevel.checkpoint()
                return b""
            room = min(room, self.truncate_after - self.received)
        data = await self.stream.receive_some(room)
        self.received += len(data)
        return data

    async def _break(self) -> None:
        self._reset = True
        await trio.aclose_forcefully(self.stream)
        raise trio.BrokenResourceError(f"reset on purpose after {self.received} bytes")

    def _check(self) -> None:
        if self._reset:
            raise trio.BrokenResourceError("reset on purpose")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, unless the connection was reset."""
        self._check()
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait as the stream inside does."""
        self._check()
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Send the end, unless the connection was reset."""
        self._check()
        await self.stream.send_eof()

    async def aclose(self) -> None:
        """Close the stream inside."""
        await self.stream.aclose()

    def __repr__(self) -> str:
        return f"<FaultyStream after {self.received} bytes on {self.stream!r}>"


@dataclass(frozen=True, slots=True)
class Faults(Layer[Dial, Dial]):
    """Makes upstream connections fail: ``Client() | Faults(reset_after=100) | Connect(...)``.

    Args:
        refuse: Whether connections are refused.
        latency: Seconds before each receive.
        reset_after: Received bytes after which the connection is reset; of a range, the seed picks one a connection.
        truncate_after: Received bytes after which the connection ends as if in order.
        share: Which share of the connections suffers at all, from 0 to 1; the seed picks them.
        seed: For all that is picked. The same seed picks the same, each time that the stack is opened.
    """

    refuse: bool = False
    latency: float = 0.0
    reset_after: Point | None = None
    truncate_after: Point | None = None
    share: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.latency < 0:
            raise InvalidConfiguration(f"{self!r}: share is from 0 to 1, and latency not negative")

    @asynccontextmanager
    async def open(self, inner: Service[Dial]) -> AsyncIterator[Service[Dial]]:
        """Yield the service; the dice belong to this opening."""
        dice = random.Random(self.seed)

        async def service(dial: Dial) -> None:
            if dice.random() >= self.share:
                await inner(dial)
                return
            if self.refuse:
                await trio.lowlevel.checkpoint()
                raise ConnectFailed("refused on purpose", layer="Faults", endpoint=str(dial.target.address or ""))
            reset, truncate = _pick(dice, self.reset_after), _pick(dice, self.truncate_after)

            async def use(stream: trio.abc.HalfCloseableStream) -> None:
                await dial.use(FaultyStream(stream, latency=self.latency, reset_after=reset, truncate_after=truncate))

            await inner(Dial(dial.target, use))

        yield service


def _pick(dice: random.Random, point: Point | None) -> int | None:
    return dice.choice(point) if isinstance(point, range) else point
