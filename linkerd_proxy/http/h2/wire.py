"""Frames as bytes (RFC 9113 sections 4 and 6): writing them, and cutting a byte stream into them."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import TypeAlias

from linkerd_proxy.http.h2.codes import ErrorCode, Violation

__all__ = [
    "ACK",
    "CONTINUATION",
    "DATA",
    "END_HEADERS",
    "END_STREAM",
    "GOAWAY",
    "HEADERS",
    "MAX_FRAME_SIZE",
    "PADDED",
    "PING",
    "PREFACE",
    "PRIORITY",
    "PRIORITY_FLAG",
    "PUSH_PROMISE",
    "RST_STREAM",
    "SETTINGS",
    "WINDOW_UPDATE",
    "Frame",
    "Splitter",
    "frame",
    "goaway",
    "head_frames",
    "rst_stream",
    "settings",
    "unpadded",
    "window_update",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

MAX_FRAME_SIZE = 16_384
"""The payload that we take at most: the protocol's initial value, which we never raise."""

Frame: TypeAlias = tuple[int, int, int, bytes]
"""Type, flags, stream and payload."""

_HEAD = Struct(">HBBBL")  # length as 16 + 8 bits, type, flags, stream
_U32 = Struct(">L")
_SETTING = Struct(">HL")


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return one frame."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def frame_head(kind: int, flags: int, stream_id: int, size: int) -> bytes:
    """Return the nine bytes before a payload of ``size`` bytes, so that a large payload needs no copy."""
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream_id)


def head_frames(stream_id: int, block: bytes, end: bool, limit: int) -> bytes:
    """Return a field block as HEADERS and as many CONTINUATION frames as the peer's frame size asks for."""
    flags = END_STREAM if end else 0
    if len(block) <= limit:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [block[at : at + limit] for at in range(0, len(block), limit)]
    frames = [frame(HEADERS, flags, stream_id, parts[0])]
    frames += [frame(CONTINUATION, 0, stream_id, part) for part in parts[1:-1]]
    frames.append(frame(CONTINUATION, END_HEADERS, stream_id, parts[-1]))
    return b"".join(frames)


def rst_stream(stream_id: int, code: int) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, _U32.pack(code))


def window_update(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream_id, _U32.pack(increment))


def goaway(last: int, code: int, debug: bytes = b"") -> bytes:
    """Return a GOAWAY frame."""
    return frame(GOAWAY, 0, 0, _U32.pack(last) + _U32.pack(code) + debug)


def settings(values: dict[int, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values.items()))


def unpadded(payload: bytes) -> bytes:
    """Return a payload without the padding that its PADDED flag announced.

    Raises:
        Violation: if the padding is longer than the payload (RFC 9113 sections 6.1 and 6.2).
    """
    if not payload:
        raise Violation(ErrorCode.FRAME_SIZE_ERROR, "a padded frame without its pad length")
    padding = payload[0]
    if padding >= len(payload):
        raise Violation(ErrorCode.PROTOCOL_ERROR, "padding longer than the frame")
    return payload[1 : len(payload) - padding]


class Splitter:
    """Cuts a byte stream into frames, and refuses one that is too long as soon as its nine-byte head is there.

    (h2 4.4.1 buffers the whole frame first: 16.8 MB for one lying head.)
    """

    __slots__ = ("_need", "_partial")

    def __init__(self) -> None:
        self._partial = bytearray()
        self._need = 9

    @property
    def inside(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._partial)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that are complete with these bytes.

        Raises:
            Violation: FRAME_SIZE_ERROR (RFC 9113 section 4.2).
        """
        if self._partial:
            self._partial += data
            if len(self._partial) < self._need:
                return
            data = bytes(self._partial)
            self._partial.clear()
        at, end = 0, len(data)
        self._need = 9
        while end - at >= 9:
            high, low, kind, flags, stream_id = _HEAD.unpack_from(data, at)
            size = high << 8 | low
            if size > MAX_FRAME_SIZE:
                raise Violation(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes, {MAX_FRAME_SIZE} are allowed")
            stop = at + 9 + size
            if stop > end:
                self._need = 9 + size
                break
            yield kind, flags, stream_id & 0x7FFFFFFF, data[at + 9 : stop]
            at = stop
        if at < end:
            self._partial += data[at:]
