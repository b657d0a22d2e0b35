"""Messages on the wire: each behind a flag and its length (grpc/grpc, doc/PROTOCOL-HTTP2.md)."""

from __future__ import annotations

import zlib

from linkerd_proxy.grpc.status import GrpcError
from linkerd_proxy.grpc_status import GrpcStatus

__all__ = ["ACCEPTED", "MAX_MESSAGE", "Decoder", "frame"]

MAX_MESSAGE = 4 << 20
"""Bytes that a message may have unless it is said otherwise: 4 MiB, as in other implementations."""

ACCEPTED = "identity,gzip"
"""The encodings that a decoder understands, for ``grpc-accept-encoding``."""

_PREFIX = 5
_GZIP = 16 + zlib.MAX_WBITS


def frame(message: bytes) -> bytes:
    """Return a message with its prefix, not compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class Decoder:
    """Cuts a stream of bytes into messages. It holds one incomplete message at most.

    Args:
        limit: Bytes of one message, also after decompression.
        encoding: The peer's ``grpc-encoding``.

    Raises:
        GrpcError: ``UNIMPLEMENTED`` for an encoding that is neither ``identity`` nor ``gzip``.
    """

    __slots__ = ("_buffer", "encoding", "limit")

    def __init__(self, limit: int = MAX_MESSAGE, encoding: str | None = None) -> None:
        if encoding not in {None, "identity", "gzip"}:
            raise GrpcError(GrpcStatus.UNIMPLEMENTED, f"messages are encoded with {encoding!r:.40}; use gzip, or none")
        self.limit: int = limit
        self.encoding: str = encoding or "identity"
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add what came; then call :meth:`next` until it returns None."""
        self._buffer += data

    def next(self) -> bytes | None:
        """Return the next whole message, or None if more must come first.

        Raises:
            GrpcError: ``RESOURCE_EXHAUSTED`` for a message above the limit, ``INTERNAL`` for one that is malformed.
        """
        buffer = self._buffer
        if len(buffer) < _PREFIX:
            return None
        length = int.from_bytes(buffer[1:_PREFIX], "big")
        if length > self.limit:
            raise self._too_large(f"{length} bytes")
        end = _PREFIX + length
        if len(buffer) < end:
            return None
        flag = buffer[0]
        with memoryview(buffer) as view:
            message = bytes(view[_PREFIX:end])
        del buffer[:end]
        if not flag:
            return message
        if flag > 1 or self.encoding == "identity":
            raise GrpcError(GrpcStatus.INTERNAL, "a message is marked as compressed, but no encoding was named")
        return self._decompress(message)

    @property
    def ready(self) -> bool:
        """Whether :meth:`next` has something to return, or to raise."""
        buffer = self._buffer
        if len(buffer) < _PREFIX:
            return False
        length = int.from_bytes(buffer[1:_PREFIX], "big")
        return length > self.limit or len(buffer) >= _PREFIX + length

    @property
    def partial(self) -> bool:
        """Whether an incomplete message is here."""
        return bool(self._buffer) and not self.ready

    def _decompress(self, data: bytes) -> bytes:
        inflate = zlib.decompressobj(_GZIP)
        try:
            message = inflate.decompress(data, self.limit + 1)
        except zlib.error as error:
            raise GrpcError(GrpcStatus.INTERNAL, f"a message is no gzip: {error}") from None
        if len(message) > self.limit:
            raise self._too_large("more than that many bytes when decompressed")
        if not inflate.eof or inflate.unused_data:
            raise GrpcError(GrpcStatus.INTERNAL, "a message is no whole gzip member")
        return message

    def _too_large(self, size: str) -> GrpcError:
        return GrpcError(
            GrpcStatus.RESOURCE_EXHAUSTED, f"a message has {size}; max_message allows {self.limit}, raise it if needed"
        )

    def __repr__(self) -> str:
        return f"<Decoder of {self.encoding}, {len(self._buffer)} bytes of a message>"
