"""The page of all metrics, in the format that the scraper asked for, made slice by slice while it is sent."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import trio

from linkerd_proxy.core.message import Body
from linkerd_proxy.metrics import protobuf_format, text_format
from linkerd_proxy.metrics.bounds import Bounds
from linkerd_proxy.metrics.negotiation import Format
from linkerd_proxy.metrics.registry import Registry

__all__ = ["Exposition"]

_DEFAULT = Bounds()


class Exposition(Body):
    """The body of an answer that lists all metrics, made as it is pulled, with a checkpoint after every slice.

    Args:
        registry: What to list. Each series is consistent; the whole is not one instant.
        format: In what format; ``protobuf`` holds native histograms besides the classic buckets.
        gzip: Whether compressed (RFC 1952).
        bounds: The classic buckets.
    """

    __slots__ = ("_gzip", "_slices")

    def __init__(
        self,
        registry: Registry,
        format: Format = "text",  # noqa: A002  # the word for it
        *,
        gzip: bool = False,
        bounds: Bounds = _DEFAULT,
    ) -> None:
        super().__init__()
        self._slices: Iterator[bytes] | None
        if format == "protobuf":
            self._slices = protobuf_format.exposed(registry, bounds=bounds)
        else:
            text = text_format.exposed(registry, openmetrics=format == "openmetrics", bounds=bounds)
            self._slices = (part.encode() for part in text)
        self._gzip = zlib.compressobj(wbits=31) if gzip else None

    async def pull(self) -> bytes:
        """Return the next slice."""
        await trio.lowlevel.checkpoint()
        while self._slices is not None:
            data = next(self._slices, None)
            if data is None:
                self._slices = None
                return self._gzip.flush() if self._gzip is not None else b""
            if self._gzip is None:
                return data
            if data := self._gzip.compress(data):
                return data
            await trio.lowlevel.checkpoint()
        return b""
