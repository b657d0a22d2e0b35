"""Protocol Buffers, written by hand where a message is small and a dependency is not: the encoder.

Each function returns one whole field, so a message is the sum of its fields. A field that has its default value is left
out, as proto3 has it. Source: protobuf.dev, Encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

__all__ = [
    "boolean", "delimited", "double", "double_always", "fixed64", "message", "packed_sint", "packed_uint",
    "sfixed64_always", "sint", "text", "uint", "varint",
]  # fmt: skip

_VARINT, _FIXED64, _LENGTH = 0, 1, 2  # wire types
_DOUBLE = struct.Struct("<d")
_FIXED = struct.Struct("<Q")
_SIGNED = struct.Struct("<q")
_SMALL = [bytes((value,)) for value in range(128)]


def varint(value: int) -> bytes:
    """Return a number of at least 0 in groups of seven bits, the lowest first."""
    if value < 128:
        return _SMALL[value]
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def uint(number: int, value: int) -> bytes:
    """Return a field of an unsigned type, or an enumeration."""
    return varint(number << 3 | _VARINT) + varint(value) if value else b""


def boolean(number: int, value: bool) -> bytes:
    """Return a field of type ``bool``."""
    return uint(number, int(value))


def sint(number: int, value: int) -> bytes:
    """Return a field of type ``sint32`` or ``sint64``."""
    return uint(number, _zigzag(value))


def double(number: int, value: float) -> bytes:
    """Return a field of type ``double``."""
    return varint(number << 3 | _FIXED64) + _DOUBLE.pack(value) if value else b""


def double_always(number: int, value: float) -> bytes:
    """Return a field of type ``double`` that has presence: one of a oneof, or an optional one."""
    return varint(number << 3 | _FIXED64) + _DOUBLE.pack(value)


def sfixed64_always(number: int, value: int) -> bytes:
    """Return a field of type ``sfixed64`` that has presence; what it can't hold becomes its largest or smallest."""
    return varint(number << 3 | _FIXED64) + _SIGNED.pack(max(-(1 << 63), min((1 << 63) - 1, value)))


def fixed64(number: int, value: int) -> bytes:
    """Return a field of type ``fixed64``."""
    return varint(number << 3 | _FIXED64) + _FIXED.pack(value) if value else b""


def message(number: int, value: bytes) -> bytes:
    """Return a field that is a message, ``bytes`` or a packed list, also where it is empty: its presence tells."""
    return varint(number << 3 | _LENGTH) + varint(len(value)) + value


def text(number: int, value: str) -> bytes:
    """Return a field of type ``string``."""
    return message(number, value.encode()) if value else b""


def packed_sint(number: int, values: Iterable[int]) -> bytes:
    """Return a repeated field of type ``sint32`` or ``sint64``."""
    data = b"".join(varint(_zigzag(value)) for value in values)
    return message(number, data) if data else b""


def packed_uint(number: int, values: Iterable[int]) -> bytes:
    """Return a repeated field of an unsigned type."""
    data = b"".join(map(varint, values))
    return message(number, data) if data else b""


def delimited(data: bytes) -> bytes:
    """Return a message with its length before it, as one of a stream."""
    return varint(len(data)) + data
