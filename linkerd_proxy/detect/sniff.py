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
# As lenient as any origin's (RFC 9112 sections 2.2 and 3): what some server would take for HTTP must not slip past
# HTTP's rules as opaque bytes. The codec then refuses it. llhttp and nginx pass over any number of line ends in front,
# Python's http.server over all that is white space in Latin-1, and it takes any version.
_SPACE = rb"[ \t\x0b\x0c\x1c-\x1f\x85\xa0]"
_PLAIN = re.compile(rb"(?:%s)%s+/" % (b"|".join(_METHODS), _SPACE))
_BLANK = re.compile(rb"(?:[\r\n]|%s)*" % _SPACE)
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]*")
_A_SPACE = re.compile(_SPACE)
_SPACES = re.compile(_SPACE + rb"*")
_LINE = re.compile(rb"[^\x00-\x08\x0a\x0d-\x1b\x7f]*")
_VERSION = re.compile(_SPACE + rb"HTTP/")
_VERSION_SIZE = 6


class Sniffer:
    """Takes a connection's first bytes in any pieces until they tell what it speaks.

    Bytes are taken while they can still become a request line, the HTTP/2 preface or a ClientHello, and not one byte
    longer. A known method and the start of a path are certain enough for HTTP/1; other methods have to show their
    ``HTTP/``. What is still undecided after MAX_LINE bytes is HTTP, for its codec to refuse. The verdict depends on the
    bytes alone, not on how they were split.
    """

    __slots__ = ("_at", "_hello", "_known", "_start", "_state", "_verdict", "data")

    def __init__(self) -> None:
        self.data: bytearray = bytearray()
        """Every byte that was fed."""
        self._at = 0
        self._start = 0
        self._known = False
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
        return "http/1" if self._hello is None and len(self.data) >= MAX_LINE else None

    # --- states, each going on to the next: all look at no more than the first MAX_LINE bytes ---

    def _first(self) -> Verdict | None:
        data = self.data
        if data[0] == 0x16:
            self._hello = ClientHelloReader()
            return self._ask_hello(bytes(data))
        if PREFACE.startswith(data[: len(PREFACE)]):
            return "http/2" if len(data) >= len(PREFACE) else None
        self._state = self._blank
        return self._blank()

    def _blank(self) -> Verdict | None:
        if not self._skip(_BLANK):
            return None
        self._start = self._at
        self._state = self._method
        return self._method()

    def _method(self) -> Verdict | None:
        if not self._skip(_TOKEN):
            return None
        if self._at == self._start or not _A_SPACE.match(self.data, self._at):
            return "not_http"
        self._known = bytes(self.data[self._start : self._at]) in _METHODS
        self._start = self._at
        self._state = self._gap
        return self._gap()

    def _gap(self) -> Verdict | None:
        if not self._skip(_SPACES):
            return None
        if self._known and self.data[self._at] == 0x2F:
            return "http/1"
        self._state = self._line
        return self._line()

    def _line(self) -> Verdict | None:
        """Look for a version anywhere in the line: what parts its target is for its reader to say."""
        seen = max(self._start, self._at - _VERSION_SIZE)
        ended = self._skip(_LINE)
        if _VERSION.search(self.data, seen, self._at):
            return "http/1"
        return "not_http" if ended else None

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
