"""What a connection speaks, told from its first bytes without I/O."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, TypeAlias

from linkerd_proxy.io.client_hello import MAX_BYTES, ClientHello, ClientHelloReader

__all__ = ["MAX_BYTES", "MAX_LINE", "PREFACE", "Sniffer", "Verdict"]

Verdict: TypeAlias = Literal["http/1", "http/2", "tls", "not_http"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What every HTTP/2 client sends first (RFC 9113 section 3.4)."""
MAX_LINE = 8 * 1024
"""Bytes in which an HTTP/1 request line of an unknown method must have shown its version (RFC 9112 section 3: 8000)."""

_METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE")
# White space as lenient as any origin's (RFC 9112 section 3): what some server would take for HTTP must not slip past
# HTTP's rules as opaque bytes. The codec then refuses it.
_SPACE = rb"[ \t\x0b\x0c]"
_PLAIN = re.compile(rb"(?:%s)%s+/" % (b"|".join(_METHODS), _SPACE))
_EMPTY_LINES = re.compile(rb"(?:\r?\n){0,2}")  # RFC 9112 section 2.2: at least one is to be ignored
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]*")
_TARGET = re.compile(rb"[\x21-\x7e\x80-\xff]*")
_SPACES = re.compile(_SPACE + rb"*")
_VERSION = b"HTTP/1."


class Sniffer:
    """Takes a connection's first bytes in any pieces until they tell what it speaks.

    Bytes are taken while they can still become a request line, the HTTP/2 preface or a ClientHello, and not one byte
    longer. A known method and the start of a path are certain enough for HTTP/1; other methods have to show their
    ``HTTP/1.``. The verdict depends on the bytes alone, not on how they were split.
    """

    __slots__ = ("_at", "_hello", "_start", "_state", "_verdict", "data")

    def __init__(self) -> None:
        self.data: bytearray = bytearray()
        """Every byte that was fed."""
        self._at = 0
        self._start = 0
        self._hello: ClientHelloReader | None = None
        self._state: Callable[[], Verdict | None] = self._first
        self._verdict: Verdict | None = None

    @property
    def hello(self) -> ClientHello | None:
        """What the ClientHello says, once the verdict is ``tls``."""
        return None if self._hello is None else self._hello.hello

    def feed(self, data: bytes | bytearray) -> Verdict | None:
        """Take the next bytes (not empty), and return the verdict, or None while more are needed."""
        first = not self.data
        self.data += data
        if self._verdict is None:
            if first and _PLAIN.match(data, 0, MAX_LINE):
                self._verdict = "http/1"
            elif self._hello is not None:
                self._verdict = self._ask_hello(data)
            else:
                self._verdict = self._state() or self._give_up()
        return self._verdict

    def _give_up(self) -> Verdict | None:
        return "not_http" if self._hello is None and len(self.data) >= MAX_LINE else None

    # --- states, each going on to the next: all look at no more than the first MAX_LINE bytes ---

    def _first(self) -> Verdict | None:
        data = self.data
        if data[0] == 0x16:
            self._hello = ClientHelloReader()
            return self._ask_hello(bytes(data))
        if PREFACE.startswith(data[: len(PREFACE)]):
            return "http/2" if len(data) >= len(PREFACE) else None
        empty = _EMPTY_LINES.match(data)
        self._at = self._start = empty.end() if empty else 0
        rest = data[self._at : self._at + 2]
        if not rest or (rest == b"\r" and data.count(b"\n", 0, self._at) < 2):
            return None
        self._state = self._method
        return self._method()

    def _method(self) -> Verdict | None:
        if not self._skip(_TOKEN):
            return None
        if self._at == self._start or not _is_space(self.data[self._at]):
            return "not_http"
        self._state = self._gap
        return self._gap()

    def _gap(self) -> Verdict | None:
        method = bytes(self.data[self._start : self._at].rstrip())
        if not self._skip(_SPACES):
            return None
        if self.data[self._at] == 0x2F and method in _METHODS:
            return "http/1"
        self._start = self._at
        self._state = self._target
        return self._target()

    def _target(self) -> Verdict | None:
        if not self._skip(_TARGET):
            return None
        if self._at == self._start or not _is_space(self.data[self._at]):
            return "not_http"
        self._state = self._version
        return self._version()

    def _version(self) -> Verdict | None:
        if not self._skip(_SPACES):
            return None
        seen = self.data[self._at : min(self._at + len(_VERSION), MAX_LINE)]
        if not _VERSION.startswith(seen):
            return "not_http"
        return "http/1" if len(seen) == len(_VERSION) else None

    def _skip(self, pattern: re.Pattern[bytes]) -> bool:
        """Go to the first byte that the pattern does not take; False if it has not come yet."""
        found = pattern.match(self.data, self._at, MAX_LINE)
        if found:
            self._at = found.end()
        return self._at < min(len(self.data), MAX_LINE)

    def _ask_hello(self, data: bytes | bytearray) -> Verdict | None:
        assert self._hello is not None
        complete = self._hello.feed(bytes(data))
        if complete is None:
            return None
        return "tls" if complete else "not_http"

    def __repr__(self) -> str:
        return f"<Sniffer {self._verdict or 'undecided'} after {len(self.data)} bytes>"


def _is_space(byte: int) -> bool:
    return byte in b" \t\x0b\x0c"
