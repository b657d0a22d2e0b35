"""What a tap shows: an exchange or a connection, as it begins, is answered and ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = [
    "ConnectionClosed",
    "ConnectionOpened",
    "RequestBegun",
    "ResponseBegun",
    "ResponseEnded",
    "TapEvent",
    "as_json",
    "packed",
    "unpacked",
]


@dataclass(frozen=True, slots=True)
class RequestBegun:
    """The head of a request.

    ``id`` tells which events belong together; ``headers`` is empty unless the tap asked for them, and credentials are
    never in it.
    """

    id: int
    labels: tuple[tuple[str, str], ...]
    source: str
    destination: str
    client_id: str
    server_name: str
    method: str
    scheme: str
    authority: str
    path: str
    version: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ResponseBegun:
    """The head of a response, ``after`` so many seconds."""

    id: int
    status: int
    after: float
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ResponseEnded:
    """The end of an exchange, good or bad: ``error`` is a failure code, empty if there was none."""

    id: int
    status: int
    after: float
    request_bytes: int
    response_bytes: int
    grpc_status: str
    error: str
    trailers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ConnectionOpened:
    """A connection began to be served."""

    id: int
    labels: tuple[tuple[str, str], ...]
    source: str
    destination: str
    client_id: str
    server_name: str
    protocol: str


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    """A connection ended, ``after`` so many seconds."""

    id: int
    after: float
    read_bytes: int
    written_bytes: int
    error: str


TapEvent: TypeAlias = RequestBegun | ResponseBegun | ResponseEnded | ConnectionOpened | ConnectionClosed

_NAMES: dict[type[TapEvent], str] = {
    RequestBegun: "request",
    ResponseBegun: "response",
    ResponseEnded: "end",
    ConnectionOpened: "open",
    ConnectionClosed: "close",
}


def as_json(event: TapEvent) -> dict[str, Any]:
    """Return an event as what JSON can say: its name, then its fields; lists of pairs become objects or lists."""
    found: dict[str, Any] = {"event": _NAMES[type(event)]}
    for name in type(event).__slots__:
        value = getattr(event, name)
        if name == "labels":
            found |= dict(value)
        elif name in {"headers", "trailers"}:
            if value:
                found[name] = [list(pair) for pair in value]
        else:
            found[name] = round(value, 6) if isinstance(value, float) else value
    return found


_KINDS = {name: kind for kind, name in _NAMES.items()}
_PAIRS = frozenset({"labels", "headers", "trailers"})


def packed(event: TapEvent) -> list[Any]:
    """Return an event as what JSON can say and :func:`unpacked` reads: for another process."""
    return [_NAMES[type(event)], *(getattr(event, name) for name in type(event).__slots__)]


def unpacked(data: list[Any]) -> TapEvent:
    """Return the event that :func:`packed` was given."""
    kind = _KINDS[data[0]]
    fields = dict(zip(kind.__slots__, data[1:], strict=True))
    for name in _PAIRS & fields.keys():
        fields[name] = tuple((one, other) for one, other in fields[name])
    return kind(**fields)
