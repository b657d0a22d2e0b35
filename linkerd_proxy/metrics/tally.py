"""How many bytes a stream has moved: asked of the stream itself where it knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import trio

from linkerd_proxy.io.streams import abort_nowait, watch_hangup

__all__ = ["Tally", "tallied"]


class Tally(Protocol):
    """A stream that counts what it moves, as the package's own streams do."""

    bytes_received: int
    """Bytes read since the stream was made."""
    bytes_sent: int
    """Bytes written since the stream was made."""


def tallied(
    stream: trio.abc.HalfCloseableStream,
) -> tuple[trio.abc.HalfCloseableStream, Tally]:
    """Return the stream and its tally: the stream as it is if it counts by itself, otherwise one around it."""
    if getattr(stream, "bytes_received", None) is not None:
        return stream, cast("Tally", stream)
    counting = _Counting(stream)
    return counting, counting


class _Counting(trio.abc.HalfCloseableStream):
    """Counts what passes through a stream that doesn't."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.bytes_received = 0
        self.bytes_sent = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self.stream.receive_some(max_bytes)
        self.bytes_received += len(data)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)
        self.bytes_sent += len(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()

    def abort(self) -> None:
        abort_nowait(self.stream)

    def watch_hangup(self, callback: Callable[[], None] | None) -> None:
        watch_hangup(self.stream, callback)

    def __repr__(self) -> str:
        return f"<Counting {self.stream!r}, {self.bytes_received} bytes in, {self.bytes_sent} out>"
