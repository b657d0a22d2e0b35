"""A head's fields, checked and sorted: what is forwarded, what frames the message, what belongs to one hop."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from linkerd_proxy.core.message import Body, HttpVersion, Response, Whole
from linkerd_proxy.errors import BadRequest, RequestRefused, UpstreamProtocolError
from linkerd_proxy.headers import Headers, RawHeaders
from linkerd_proxy.http.hop import HOP_BY_HOP, is_shadow, may_trail, nominated
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.memo import Doorkeeper, remember
from linkerd_proxy.http.syntax import check_value, field_name

__all__ = [
    "END_TO_END",
    "SENDABLE",
    "VERSIONS",
    "Fields",
    "Framing",
    "ReadField",
    "check_field",
    "check_fields",
    "expects_continue",
    "make_response",
    "part",
    "read_field",
    "trailers_from",
]


@dataclass(frozen=True, slots=True)
class Framing:
    """How an HTTP/1 message's content ends, and what becomes of its connection (RFC 9112 section 6).

    Args:
        length: The content's length; 0 for none; None where chunks or the end of the connection tell.
        chunked: Whether the content is chunked.
        keep_alive: Whether the peer lets the connection live on.
        expects_continue: Whether the client waits for 100 before it sends the content.
        wants_trailers: Whether the client said ``TE: trailers``.
    """

    length: int | None = 0
    chunked: bool = False
    keep_alive: bool = True
    expects_continue: bool = False
    wants_trailers: bool = False


# Fields that the codecs read; all others are end to end (unless Connection nominates them).
_SPECIAL = HOP_BY_HOP | {b"host", b"content-length", b"expect"}
END_TO_END, _READ_HERE, _DROPPED = "end to end", "read here", "dropped"
_NOTHING: frozenset[bytes] = frozenset()

ReadField: TypeAlias = tuple[str, tuple[bytes, bytes]]
"""What becomes of a field, and the field in lower case without white space around."""

# Most fields of real traffic come again and again, even where no two heads are equal.
_known: dict[tuple[bytes, bytes], ReadField] = {}
_door = Doorkeeper()
_KNOWN_SIZE = 4096
_KNOWN_LENGTH = 256
VERSIONS: dict[bytes, HttpVersion] = {b"1.1": "1.1", b"1.0": "1.0"}


def read_field(field: tuple[bytes, bytes]) -> ReadField:
    """Check one field, and say what becomes of it. Raises BadRequest if it is malformed."""
    name, value = field
    lower = field_name(name)
    value = value.strip(b" \t")
    check_value(lower, value)
    fate = _READ_HERE if lower in _SPECIAL else _DROPPED if is_shadow(lower) else END_TO_END
    return fate, (lower, value)


def _recall_field(field: tuple[bytes, bytes]) -> ReadField:
    known = _known.get(field)
    if known is None:
        known = read_field(field)
        if len(field[0]) + len(field[1]) <= _KNOWN_LENGTH and _door.admits(hash(field)):
            remember(_known, field, known, _KNOWN_SIZE)
    return known


def part(read: list[ReadField]) -> tuple[RawHeaders, tuple[tuple[bytes, bytes], ...]]:
    """Part fields that were read into end-to-end and special ones, in order. What Connection names is not heeded."""
    return (
        [field for fate, field in read if fate is END_TO_END],
        tuple([field for fate, field in read if fate is _READ_HERE]),
    )


class Fields:
    """A head's fields, checked and sorted into end-to-end ones and special ones."""

    __slots__ = ("connection", "end_to_end", "special")

    def __init__(self, raw: RawHeaders, limits: Limits) -> None:
        if len(raw) > limits.max_fields:
            raise RequestRefused(f"more than the {limits.max_fields} fields that Limits(max_fields=...) allows", 431)
        self._sort([_recall_field(field) for field in raw])

    @classmethod
    def sorted(cls, read: list[ReadField]) -> Fields:
        """Sort fields that were read and counted already."""
        fields = cls.__new__(cls)
        fields._sort(read)
        return fields

    def _sort(self, read: list[ReadField]) -> None:
        end_to_end: RawHeaders = []
        special: dict[bytes, list[bytes]] = {}
        for fate, field in read:
            if fate is END_TO_END:
                end_to_end.append(field)
            elif fate is _READ_HERE:
                special.setdefault(field[0], []).append(field[1])
        self.connection: frozenset[bytes] = _NOTHING
        if b"connection" in special:
            self.connection = nominated(special[b"connection"])
            if not self.connection <= HOP_BY_HOP:
                end_to_end = [field for field in end_to_end if field[0] not in self.connection]
        self.end_to_end: RawHeaders = end_to_end
        self.special: dict[bytes, list[bytes]] = special

    def are_only(self, end_to_end: RawHeaders) -> bool:
        """Whether these fields are all that goes on, and would be whatever other end-to-end fields there were."""
        return self.end_to_end == end_to_end and self.connection <= HOP_BY_HOP

    def get(self, name: bytes) -> list[bytes]:
        """Return the values of a special field, in order."""
        return self.special.get(name, [])

    def tokens(self, name: bytes) -> list[bytes]:
        """Return the lower-case members of a special field that is a list."""
        values = self.special.get(name)
        if not values:
            return []
        return [token.strip(b" \t").lower() for value in values for token in value.split(b",")]

    def closes(self) -> bool:
        """Whether ``Connection`` says close."""
        return b"close" in self.tokens(b"connection")

    def keep_alive(self, version: HttpVersion) -> bool:
        """Whether the sender lets the connection live on (RFC 9112 section 9.3)."""
        if version == "1.0":
            return b"keep-alive" in self.connection and not self.closes()
        return b"connection" not in self.special or not self.closes()


def expects_continue(fields: Fields, version: HttpVersion) -> bool:
    """Whether the client waits for 100; anything else that it expects is refused with 417."""
    values = fields.get(b"expect")
    if not values:
        return False
    if len(values) > 1 or values[0].lower() != b"100-continue":
        raise RequestRefused("an expectation other than 100-continue", 417)
    if version == "1.0":
        return False  # RFC 9110 section 10.1.1: ignored
    fields.end_to_end.append((b"expect", b"100-continue"))
    return True


def make_response(
    status: int, headers: Headers, length: int | None, version: HttpVersion, request_method: str
) -> Response:
    """Make a response; its body is ``EMPTY`` exactly where there can't be content (RFC 9112 section 6.3)."""
    if not 100 <= status <= 599:
        raise UpstreamProtocolError(f"the upstream answers with status {status}")
    if request_method == "HEAD" or status == 304:
        return Response(status, headers, version=version, declared_length=length)
    if status < 200 or status == 204 or (request_method == "CONNECT" and status < 300):
        return Response(status, headers, version=version)
    return Response(status, headers, Whole() if length == 0 else Body(length), version=version)


# --- outbound ----------------------------------------------------------------------------------


def trailers_from(raw: RawHeaders) -> Headers:
    """Return those trailer fields that may be forwarded; the others are dropped (RFC 9110 section 6.5.1).

    Raises:
        BadRequest: for a malformed field.
    """
    allowed: RawHeaders = []
    for name, value in raw:
        lower = field_name(name)
        value = value.strip(b" \t")
        check_value(lower, value)
        if may_trail(lower):
            allowed.append((lower, value))
    return Headers.of(allowed)


_passed: dict[tuple[bytes, bytes], None] = {}
_passing = Doorkeeper()
_PASSED_SIZE = 4096
_PASSED_LENGTH = 256
SENDABLE = re.compile(rb"[\x21-\x7e\x80-\xff]+(?: +[\x21-\x7e\x80-\xff]+)*")
"""Most values: no control character, not even a tab, and no white space at an end. Others get a closer look."""
_NOT_A_FIELD = HOP_BY_HOP - {b"te"} | {b"host", b"content-length"}


def check_fields(raw: RawHeaders) -> None:
    """Refuse fields that a layer must not send: malformed ones, framing, hop-by-hop. Memoised by field.

    Raises:
        BadRequest: naming the field.
    """
    for field in raw:
        if field not in _passed:
            check_field(field)
            if len(field[0]) + len(field[1]) <= _PASSED_LENGTH and _passing.admits(hash(field)):
                remember(_passed, field, None, _PASSED_SIZE)


def check_field(field: tuple[bytes, bytes]) -> None:
    """Refuse a field that a layer must not send. Raises BadRequest."""
    name, value = field
    if field_name(name) != name or name in _NOT_A_FIELD:
        raise BadRequest(f"header {name[:64]!r} is the codec's business, or not in lower case")
    if SENDABLE.fullmatch(value):
        return
    check_value(name, value)
    if value != value.strip(b" \t"):
        raise BadRequest(f"header {name[:64]!r} has white space at an end of its value")
