"""Field blocks for the wire (HPACK, RFC 7541), with a table that stays small and repeats remembered.

The ``hpack`` package's encoder puts every field into its table, so a ``:path`` that differs in each request evicts
everything useful, and searches the table field by field. This one keeps values that rarely repeat out of the table
(as hyper's h2 does), finds entries by hash, and so can keep whole blocks for as long as the table stays the same.
Literals are not Huffman-coded: it would save a fifth of the first request's bytes and cost more than all the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from linkerd_proxy.http.h2.decoder import STATIC, TABLE_SIZE, NeverIndexed

__all__ = ["Encoder"]

_STATIC_FIELDS = {field: index for index, field in enumerate(STATIC) if index}
_STATIC_NAMES = {name: index for index, (name, _) in reversed(list(enumerate(STATIC))) if index}

# What hyper's h2 leaves out of its table (hyperium/h2, src/hpack/header.rs, skip_value_index), and what tracing adds.
_VARYING = frozenset(
    b":path age content-length content-range etag if-modified-since if-none-match last-modified location range "
    b"grpc-timeout grpc-message traceparent tracestate x-request-id b3 x-b3-traceid x-b3-spanid "
    b"x-b3-parentspanid".split()
)
# Secrets must not be guessable from compressed sizes (RFC 7541 section 7.1.3).
_SECRET = frozenset(b"authorization proxy-authorization cookie set-cookie".split())

_MEMO_BLOCKS = 64


class Encoder:
    """Encodes the field blocks of one connection in order."""

    __slots__ = ("_entries", "_fields", "_inserted", "_limit", "_memo", "_names", "_size", "_updates")

    def __init__(self) -> None:
        self._entries: deque[tuple[bytes, bytes]] = deque()
        self._fields: dict[tuple[bytes, bytes], int] = {}
        self._names: dict[bytes, int] = {}
        self._inserted = 0
        self._size = 0
        self._limit = TABLE_SIZE
        self._updates: list[int] = []
        self._memo: dict[tuple[tuple[bytes, bytes], ...], bytes] = {}

    def resize(self, allowed: int) -> None:
        """Follow the peer's SETTINGS_HEADER_TABLE_SIZE, up to 4096 bytes: the peer must not choose our memory."""
        limit = min(allowed, TABLE_SIZE)
        if limit == self._limit and not self._updates:
            return
        self._limit = limit
        self._memo = {}
        self._evict()
        # Only the smallest and the last of several changes are told (RFC 7541 section 4.2).
        smallest = min([*self._updates, limit])
        self._updates = [smallest, limit] if smallest < limit else [limit]

    def encode(self, fields: Sequence[tuple[bytes, bytes]]) -> bytes:
        """Return the block for these fields."""
        key = tuple(fields)
        block = self._memo.get(key)
        if block is not None:
            return block
        memo = self._memo
        parts: list[bytes] = []
        if self._updates:
            for limit in self._updates:
                _integer(parts, limit, 0x1F, 0x20)
            self._updates = []
            self._memo = {}  # what is about to be encoded says it once, so it must not be remembered
        for field in key:
            self._encode(parts, field)
        block = b"".join(parts)
        if memo is self._memo and len(block) <= 1024:
            if len(memo) >= _MEMO_BLOCKS:
                del memo[next(iter(memo))]
            memo[key] = block
        return block

    def _encode(self, parts: list[bytes], field: tuple[bytes, bytes]) -> None:
        index = _STATIC_FIELDS.get(field)
        if index is None:
            at = self._fields.get(field)
            if at is not None:
                index = 61 + self._inserted - at
        if index is not None:
            _integer(parts, index, 0x7F, 0x80)
            return
        name, value = field
        if name in _SECRET or isinstance(field, NeverIndexed):
            self._literal(parts, name, value, 0x0F, 0x10)
        elif name in _VARYING or len(name) + len(value) + 32 > self._limit // 2:
            self._literal(parts, name, value, 0x0F, 0x00)
        else:
            self._literal(parts, name, value, 0x3F, 0x40)
            self._insert(field)

    def _literal(self, parts: list[bytes], name: bytes, value: bytes, mask: int, kind: int) -> None:
        index = _STATIC_NAMES.get(name)
        if index is None:
            at = self._names.get(name)
            index = 0 if at is None else 61 + self._inserted - at
        _integer(parts, index, mask, kind)
        if not index:
            _integer(parts, len(name), 0x7F, 0)
            parts.append(name)
        _integer(parts, len(value), 0x7F, 0)
        parts.append(value)

    def _insert(self, field: tuple[bytes, bytes]) -> None:
        self._memo = {}
        self._entries.append(field)
        self._fields[field] = self._names[field[0]] = self._inserted
        self._inserted += 1
        self._size += len(field[0]) + len(field[1]) + 32
        self._evict()

    def _evict(self) -> None:
        while self._size > self._limit:
            oldest = self._inserted - len(self._entries)
            field = self._entries.popleft()
            self._size -= len(field[0]) + len(field[1]) + 32
            if self._fields[field] == oldest:
                del self._fields[field]
            if self._names[field[0]] == oldest:
                del self._names[field[0]]


def _integer(parts: list[bytes], value: int, mask: int, kind: int) -> None:
    """Append a prefixed integer (RFC 7541 section 5.1) with the bits of its kind."""
    if value < mask:
        parts.append(_BYTES[kind | value])
        return
    out = bytearray((kind | mask,))
    value -= mask
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    parts.append(bytes(out))


_BYTES = [bytes((value,)) for value in range(256)]
