"""Field blocks from the wire (HPACK, RFC 7541), with limits that hold while decoding, and repeats remembered.

Huffman coding and the static table are those of the ``hpack`` package. The loop is our own because ``hpack`` copies
the rest of the block for each field (10 ms for a 2 KB block of tiny fields), can only give up on the whole
connection when a list is too large, and can't tell whether a block changed its table, which is what a memo must know.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache

from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from linkerd_proxy.headers import RawHeaders
from linkerd_proxy.http.h2.codes import ErrorCode, Violation

__all__ = ["TABLE_SIZE", "Block", "Decoder", "NeverIndexed"]

TABLE_SIZE = 4096
"""The dynamic table's size in both directions: the protocol's initial value, which we never raise."""

STATIC: tuple[tuple[bytes, bytes], ...] = ((b"", b""), *HeaderTable.STATIC_TABLE)
"""The static table from 1 (RFC 7541 appendix A)."""

_MEMO_BLOCKS = 64
_MEMO_BYTES = 1024


class NeverIndexed(tuple[bytes, bytes]):
    """A field that its sender wants kept out of every compression table, hop by hop (RFC 7541 section 6.2.3)."""

    __slots__ = ()


class Block:
    """A decoded field block. Blocks that repeat on a connection are one object, so readers may keep notes on it.

    Args:
        fields: The fields in wire order; only the first ones if ``oversized``.
        oversized: Whether the list crossed a limit: whoever asked gets 431.
    """

    __slots__ = ("fields", "memo", "oversized")

    def __init__(self, fields: RawHeaders, *, oversized: bool = False) -> None:
        self.fields: RawHeaders = fields
        self.oversized: bool = oversized
        self.memo: object = None
        """What the reader made of it, for the next time."""


class Decoder:
    """Decodes the field blocks of one connection in order.

    Args:
        max_size: Bytes of a list by RFC 9113 section 6.5.2 (each field costs 32 more) that readers get at most.
        max_fields: Fields likewise.

    A list up to twice as large is decoded, so that the table stays right and only its stream fails; above that the
    connection ends.
    """

    __slots__ = ("_entries", "_limit", "_max_fields", "_max_size", "_memo", "_size")

    def __init__(self, max_size: int, max_fields: int) -> None:
        self._max_size = max_size
        self._max_fields = max_fields
        self._entries: deque[tuple[bytes, bytes]] = deque()
        self._size = 0
        self._limit = TABLE_SIZE
        self._memo: dict[bytes, Block] = {}

    def decode(self, data: bytes) -> Block:
        """Return the fields of a complete block.

        Raises:
            Violation: COMPRESSION_ERROR if it can't be decoded, ENHANCE_YOUR_CALM if it expands to far too much.
        """
        block = self._memo.get(data)
        if block is not None:
            return block
        memo = self._memo
        try:
            block = self._decode(data)
        except (HPACKDecodingError, IndexError) as error:
            raise Violation(ErrorCode.COMPRESSION_ERROR, f"a field block can't be decoded: {error}") from error
        # A block that changed the table would mean something else the second time; then `_memo` is a new one, too.
        if memo is self._memo and len(data) <= _MEMO_BYTES:
            if len(memo) >= _MEMO_BLOCKS:
                del memo[next(iter(memo))]
            memo[data] = block
        return block

    def _decode(self, data: bytes) -> Block:
        fields: RawHeaders = []
        at, end, size, count = 0, len(data), 0, 0
        while at < end:
            first = data[at]
            if first >= 0x80:
                index, at = _integer(data, at, 0x7F)
                field = self._entry(index)
            elif first >= 0x40:
                field, at = self._literal(data, at, 0x3F)
                self._insert(field)
            elif first >= 0x20:
                if count:
                    raise HPACKDecodingError("a table size update after a field")
                at = self._resize(data, at)
                continue
            else:
                field, at = self._literal(data, at, 0x0F)
                if first & 0x10:
                    field = NeverIndexed(field)
            count += 1
            size += len(field[0]) + len(field[1]) + 32
            if size <= self._max_size and count <= self._max_fields:
                fields.append(field)
            elif size > 2 * self._max_size:
                raise Violation(ErrorCode.ENHANCE_YOUR_CALM, f"a field list of more than {2 * self._max_size} bytes")
        return Block(fields, oversized=count > len(fields))

    def _entry(self, index: int) -> tuple[bytes, bytes]:
        if index < 62:
            if index == 0:
                raise HPACKDecodingError("index 0")
            return STATIC[index]
        return self._entries[index - 62]

    def _literal(self, data: bytes, at: int, mask: int) -> tuple[tuple[bytes, bytes], int]:
        index, at = _integer(data, at, mask)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _string(data, at)
        value, at = _string(data, at)
        return (name, value), at

    def _insert(self, field: tuple[bytes, bytes]) -> None:
        self._memo = {}
        self._size += len(field[0]) + len(field[1]) + 32
        self._entries.appendleft(field)
        self._evict()

    def _evict(self) -> None:
        while self._size > self._limit:
            name, value = self._entries.pop()
            self._size -= len(name) + len(value) + 32

    def _resize(self, data: bytes, at: int) -> int:
        limit, at = _integer(data, at, 0x1F)
        if limit > TABLE_SIZE:
            raise HPACKDecodingError(f"a table of {limit} bytes, {TABLE_SIZE} are allowed")
        self._memo = {}
        self._limit = limit
        self._evict()
        return at


def _integer(data: bytes, at: int, mask: int) -> tuple[int, int]:
    """Read a prefixed integer (RFC 7541 section 5.1) of at most 28 bits beyond its prefix."""
    value = data[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in (0, 7, 14, 21):
        byte = data[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise HPACKDecodingError("an integer of too many bytes")


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    huffman = data[at] & 0x80
    size, at = _integer(data, at, 0x7F)
    stop = at + size
    if stop > len(data):
        raise HPACKDecodingError("a string beyond the block's end")
    raw = data[at:stop]
    if not huffman:
        return raw, stop
    return (_short(raw) if size <= 64 else decode_huffman(raw)), stop


@lru_cache(maxsize=1024)
def _short(raw: bytes) -> bytes:
    """Decode a short string. Paths, types and agents repeat, and the loop in Python costs 0.3 us a byte."""
    return decode_huffman(raw)
