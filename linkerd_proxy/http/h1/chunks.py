"""The chunked coding, strictly (RFC 9112 section 7.1), without I/O."""

from __future__ import annotations

import re

from linkerd_proxy.errors import BadRequest, PayloadTooLarge
from linkerd_proxy.headers import Headers, RawHeaders
from linkerd_proxy.http.h1.scan import FIELD_LINES
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.syntax import MAX_LENGTH
from linkerd_proxy.http.validate import trailers_from

__all__ = ["ChunkDecoder"]

# No white space around the size, no quoted line ends: what some peers forgive is where two peers disagree.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t\x20-\x7e\x80-\xff]*)?")
_BARE = re.compile(rb"(?<!\r)\n|\r[^\n]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SIZE, _DATA, _AFTER, _TRAILERS, _DONE = range(5)


class ChunkDecoder:
    """Decodes one message's chunks.

    ``done`` tells whether the last chunk and its trailers have been seen; ``trailers`` are those that may go on.
    """

    __slots__ = ("_chunks", "_extensions", "_left", "_limits", "_state", "trailers")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._state = _SIZE
        self._left = 0
        self._chunks = 0
        self._extensions = 0
        self.trailers: Headers | None = None

    @property
    def done(self) -> bool:
        """Whether the message's end has been seen."""
        return self._state == _DONE

    def decode(self, buffer: bytes) -> tuple[bytes, bytes]:
        """Return the content in ``buffer``, and what is left of it for the next call (or follows the message).

        Raises:
            BadRequest: for anything but well-formed chunks.
            PayloadTooLarge: for more extensions or trailers than the limits allow.
        """
        pieces: list[bytes] = []
        position = 0
        while self._state != _DONE:
            if self._state == _DATA:
                piece = buffer[position : position + self._left]
                if not piece:
                    break
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._state = _AFTER
                continue
            read = self._read_line(buffer, position) if self._state != _TRAILERS else self._read_end(buffer, position)
            if read < 0:
                break
            position = read
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), buffer[position:]

    def _read_line(self, buffer: bytes, position: int) -> int:
        """Read a chunk's size line, or the line end after its data; return the new position, or -1 for more."""
        if self._state == _AFTER:
            end = buffer[position : position + 2]
            if not b"\r\n".startswith(end):
                raise BadRequest("a chunk's data does not end with CRLF")
            if len(end) < 2:
                return -1
            self._state = _SIZE
            return position + 2
        end_of_line = buffer.find(b"\r\n", position)
        if end_of_line < 0:
            rest = buffer[position:]
            if _BARE.search(rest) or not _SIZE_LINE.fullmatch(rest.rstrip(b"\r") or b"0"):
                raise BadRequest("a malformed chunk size")
            if len(rest) > self._limits.max_chunk_extensions + 18:
                raise PayloadTooLarge("a chunk extension is longer than Limits(max_chunk_extensions=...) allows")
            return -1
        match = _SIZE_LINE.fullmatch(buffer, position, end_of_line)
        if match is None:
            raise BadRequest("a malformed chunk size")
        self._begin_chunk(int(match[1], 16), len(match[2] or b""))
        return end_of_line + 2

    def _begin_chunk(self, size: int, extension: int) -> None:
        if size > MAX_LENGTH:
            raise BadRequest("a chunk is larger than 2**63-1")
        self._chunks += 1
        self._extensions += extension
        limits = self._limits
        if self._extensions > min(limits.max_chunk_extensions, limits.max_chunk_extension_average * self._chunks):
            raise BadRequest("more chunk extensions than Limits(max_chunk_extensions=...) allows")
        self._left = size
        self._state = _DATA if size else _TRAILERS

    def _read_end(self, buffer: bytes, position: int) -> int:
        if buffer.startswith(b"\r\n", position):
            self._state = _DONE
            return position + 2
        end = buffer.find(b"\r\n\r\n", position)
        section = buffer[position:] if end < 0 else buffer[position : end + 4]
        if len(section) > self._limits.max_trailers:
            raise PayloadTooLarge("the trailers are larger than Limits(max_trailers=...) allows")
        if end < 0:
            if _BARE.search(section):
                raise BadRequest("a malformed trailer")
            return -1
        if FIELD_LINES.fullmatch(section) is None:
            raise BadRequest("a malformed trailer")
        raw: RawHeaders = [(n, v) for n, _, v in (line.partition(b":") for line in section[:-4].split(b"\r\n"))]
        self.trailers = trailers_from(raw) or None
        self._state = _DONE
        return end + 4

    def __repr__(self) -> str:
        state = ("size", "data", "end of data", "trailers", "done")[self._state]
        return f"<ChunkDecoder at {state}, {self._chunks} chunks>"
