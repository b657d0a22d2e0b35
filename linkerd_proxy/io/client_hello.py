"""The TLS ClientHello, read without I/O: enough of it to know that it is one, and what it asks for.

RFC 8446 sections 4.1.2 and 5.1, RFC 5246 section 7.4.1.2, RFC 6066 section 3 (SNI), RFC 7301 (ALPN), RFC 8701 (GREASE).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

__all__ = ["MAX_BYTES", "MAX_HELLO", "ClientHello", "ClientHelloReader"]

MAX_HELLO = 16 * 1024
"""Bytes of a ClientHello message: a key share of ML-KEM-1024 and a full SNI leave most of it free."""
MAX_BYTES = MAX_HELLO + 5
"""Bytes read from the connection for one, record headers included: one record of the largest size."""

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_ALPN = 16
_LENGTH = struct.Struct(">H")
_EXTENSION = struct.Struct(">HH")  # type, length
_NAME = struct.Struct(">BH")  # type, length
_VISIBLE = re.compile(rb"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a TLS client asks for.

    Args:
        server_name: The name it wants to reach (SNI), in lower case, or None.
        alpn: The application protocols that it offers, in its order; GREASE values are among them.
    """

    server_name: str | None = None
    alpn: tuple[bytes, ...] = ()


class _Malformed(Exception):
    """The bytes are no ClientHello. Never leaves this module."""


class ClientHelloReader:
    """Reads a ClientHello that comes in any pieces: split over segments, and over TLS records.

    What it says about some bytes depends on the bytes alone, not on how they were split.
    """

    __slots__ = ("_head", "_left", "_message", "_room", "_verdict", "hello")

    def __init__(self) -> None:
        self.hello: ClientHello | None = None
        """What the message says, once it is complete."""
        self._head = bytearray()
        self._left = 0
        self._message = bytearray()
        self._room = MAX_BYTES
        self._verdict: bool | None = None

    def feed(self, data: bytes) -> bool | None:
        """Take the next bytes, and say whether this is a ClientHello.

        Returns:
            True once it is complete, False at the first byte that can't belong to one, None while more is needed.
        """
        if self._verdict is None:
            room = self._room
            self._room -= len(data)
            try:
                self._read(data[:room])
            except _Malformed:
                self._verdict = False
            if self._verdict is None and self._room <= 0:
                self._verdict = False
        return self._verdict

    def _read(self, data: bytes) -> None:
        at = 0
        while at < len(data) and self._verdict is None:
            if self._left:
                taken = data[at : at + self._left]
                self._left -= len(taken)
                self._message += taken
                self._check_message()
            else:
                taken = data[at : at + 5 - len(self._head)]
                self._head += taken
                self._check_head()
            at += len(taken)

    def _check_head(self) -> None:
        """Check as much as there is of a record's header: type, version 3.x, length."""
        head = self._head
        # A slice that has not come yet is empty, and passes.
        if head[0] != _HANDSHAKE or head[1:2] not in b"\x03" or head[2:3] > b"\x04" or head[3:4] > b"\x40":
            raise _Malformed
        if len(head) == 5:
            self._left = int.from_bytes(head[3:5], "big")
            if not 0 < self._left <= MAX_HELLO:
                raise _Malformed
            head.clear()

    def _check_message(self) -> None:
        """Check the fields whose place is fixed as they arrive, and the others at the end."""
        message = self._message
        if message[0] != _CLIENT_HELLO or message[1:2] not in b"\x00":
            raise _Malformed
        if message[4:5] not in b"\x03" or message[5:6] > b"\x04" or message[38:39] > b"\x20":
            raise _Malformed
        if len(message) < 4:
            return
        size = 4 + int.from_bytes(message[1:4], "big")
        if size > MAX_HELLO:
            raise _Malformed
        if len(message) >= size:
            self.hello = _parse(bytes(message[4:size]))
            self._verdict = True

    def __repr__(self) -> str:
        return f"<ClientHelloReader {self.hello or self._verdict}, {len(self._message)} bytes of message>"


def _parse(body: bytes) -> ClientHello:
    """Read the message: every proxied TLS connection begins with this, so it goes by offsets and cuts little out."""
    size = len(body)
    server_name: str | None = None
    alpn: tuple[bytes, ...] = ()
    seen: set[int] = set()
    try:
        at = _find_extensions(body)
        while at < size:
            kind, length = _EXTENSION.unpack_from(body, at)
            at += 4
            if at + length > size or kind in seen:
                raise _Malformed
            seen.add(kind)
            if kind == _SERVER_NAME:
                server_name = _server_name(body[at : at + length])
            elif kind == _ALPN:
                alpn = _protocols(body[at : at + length])
            at += length
    except (IndexError, struct.error):
        raise _Malformed from None
    return ClientHello(server_name, alpn)


def _find_extensions(body: bytes) -> int:
    """Return where they begin, after checking what comes before: the length itself if there are none."""
    at: int = 2 + 32  # version and random
    length: int
    if body[at] > 32:  # session id
        raise _Malformed
    at += 1 + body[at]
    (length,) = _LENGTH.unpack_from(body, at)  # cipher suites
    if length < 2 or length % 2:
        raise _Malformed
    at += 2 + length
    if body[at] < 1:  # compression methods
        raise _Malformed
    at += 1 + body[at]
    if at == len(body):  # TLS 1.2 and older may have none
        return at
    (length,) = _LENGTH.unpack_from(body, at)
    if at + 2 + length != len(body):
        raise _Malformed
    return at + 2


def _server_name(extension: bytes) -> str | None:
    size = len(extension)
    (length,) = _LENGTH.unpack_from(extension)
    if length < 1 or 2 + length != size:
        raise _Malformed
    at = 2
    found: bytes | None = None
    while at < size:
        kind, length = _NAME.unpack_from(extension, at)
        at += 3
        name = extension[at : at + length]
        if length < 1 or len(name) != length:
            raise _Malformed
        at += length
        if kind == 0:  # host_name; at most one of a kind
            if found is not None or not _VISIBLE.fullmatch(name):
                raise _Malformed
            found = name
    return None if found is None else found.decode("ascii").lower()


def _protocols(extension: bytes) -> tuple[bytes, ...]:
    size = len(extension)
    (length,) = _LENGTH.unpack_from(extension)
    if length < 2 or 2 + length != size:
        raise _Malformed
    at = 2
    found: list[bytes] = []
    while at < size:
        length = extension[at]
        at += 1
        name = extension[at : at + length]
        if length < 1 or len(name) != length:
            raise _Malformed
        at += length
        found.append(name)
    return tuple(found)
