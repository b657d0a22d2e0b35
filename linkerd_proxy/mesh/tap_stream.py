"""``/tap`` of the admin endpoint: live events as lines of JSON, for as long as somebody reads them."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias
from urllib.parse import parse_qs

from linkerd_proxy.core.message import Body, Response
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.tap_events import TapEvent, as_json
from linkerd_proxy.metrics.tap_match import Match, Wanted
from linkerd_proxy.metrics.taps import current_taps

__all__ = ["Lines", "OpenTaps", "TapReader", "TapWish", "stream_tap", "tap_here", "wish_of_query"]

_ALIVE = 10.0  # seconds of silence after which an empty line tells whether the reader is still there
_TEXTS = ("method", "path", "authority", "source", "client_id")


@dataclass(frozen=True, slots=True)
class TapWish:
    """What somebody wants to look at: plain data, for it crosses to other processes.

    Args:
        kind: Whose words ``text`` has.
        text: A query as ``/tap`` takes it, or a ``Match`` of Linkerd's tap in base64, empty for none.
        limit: How many exchanges and connections.
        sample: The share of them.
        headers: Whether with header fields.
    """

    kind: Literal["query", "observe"]
    text: str
    limit: int = 1_000_000
    sample: float = 1.0
    headers: bool = False

    def match(self) -> Wanted:
        """Return what it matches.

        Raises:
            InvalidConfiguration: if it means nothing.
        """
        if self.kind == "query":
            return _parse(self.text)[0]
        from linkerd_proxy.grpc.tap_api import Match as Message  # whoever does not speak gRPC needs no protobuf
        from linkerd_proxy.mesh.tap_request import match_of

        return match_of(Message.FromString(base64.b64decode(self.text)) if self.text else None)


class TapReader(Protocol):
    """An open tap, of this process or of several."""

    @property
    def dropped(self) -> int:
        """How many events nobody fetched in time."""
        ...

    async def next_batch(self, silence: float) -> tuple[list[TapEvent], int] | None:
        """Return what :meth:`~linkerd_proxy.metrics.taps.OpenTap.next_batch` does."""
        ...


OpenTaps: TypeAlias = Callable[[TapWish], AbstractAsyncContextManager[TapReader]]
"""Opens a tap for as long as a block takes."""


@asynccontextmanager
async def tap_here(wish: TapWish) -> AsyncIterator[TapReader]:
    """Look at the traffic of this Trio run.

    Raises:
        InvalidConfiguration: for a wish that means nothing.
        Overloaded: if too many taps are open.
    """
    with current_taps().open(wish.match(), limit=wish.limit, sample=wish.sample, headers=wish.headers) as tap:
        yield tap


async def stream_tap(exchange: Exchange, taps: OpenTaps = tap_here) -> None:
    """Answer ``/tap?method=GET&path=/api&limit=100`` with events until the limit is reached or the reader goes.

    The query may have ``method``, ``path``, ``authority``, ``source``, ``port``, ``client_id`` and ``label`` (as
    ``name=value``, also several), which are those of :class:`~linkerd_proxy.metrics.tap_match.Match`, and ``limit``,
    ``sample`` (a share) and ``headers`` (``true``). What the reader is too slow for is dropped, and a line says how
    many.

    Raises:
        InvalidConfiguration: for a query that means nothing; nothing was answered then.
        Overloaded: if too many taps are open.
    """
    async with taps(wish_of_query(exchange.request.path.partition("?")[2])) as tap:
        await exchange.respond(Response(200, [("content-type", "application/x-ndjson")], Lines(tap)))


class Lines(Body):
    """What a tap shows as lines of JSON, until its limit is reached, and how much its reader was too slow for."""

    __slots__ = ("_tap",)

    def __init__(self, tap: TapReader) -> None:
        super().__init__()
        self._tap = tap

    async def pull(self) -> bytes:
        """Wait until there is something to tell, and return it."""
        batch = await self._tap.next_batch(_ALIVE)
        if batch is None:
            return b""
        events, dropped = batch
        found = [json.dumps(as_json(event), separators=(",", ":")).encode() for event in events]
        if dropped:
            found.append(json.dumps({"event": "dropped", "count": dropped}).encode())
        return b"\n".join([*found, b""]) or b"\n"


def wish_of_query(query: str) -> TapWish:
    """Return what a query of ``/tap`` asks for.

    Raises:
        InvalidConfiguration: if it means nothing.
    """
    _, limit, sample, headers = _parse(query)
    return TapWish("query", query, limit, sample, headers)


def _parse(query: str) -> tuple[Match, int, float, bool]:
    fields = parse_qs(query, keep_blank_values=True)
    labels = [_pair(text) for text in fields.pop("label", [])]
    given = {name: values[-1] for name, values in fields.items()}
    texts = {name: given.pop(name, "") for name in _TEXTS}
    port = _number(given.pop("port", ""), "port", int)
    limit = _number(given.pop("limit", ""), "limit", int)
    sample = _number(given.pop("sample", ""), "sample", float)
    headers = given.pop("headers", "").lower() in {"true", "1", "yes"}
    if given:
        known = ", ".join((*_TEXTS, "port", "label", "limit", "sample", "headers"))
        raise InvalidConfiguration(f"{min(given)!r} is nothing that a tap can look for: give some of {known}")
    match = Match(**texts, port=None if port is None else int(port), labels=tuple(labels))
    return match, 1_000_000 if limit is None else int(limit), 1.0 if sample is None else sample, headers


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidConfiguration(f"the label {text!r} has no value: write name=value")
    return name, value


def _number(text: str, name: str, kind: type[int | float]) -> float | None:
    if not text:
        return None
    try:
        return kind(text)
    except ValueError as error:
        raise InvalidConfiguration(f"the tap's {name} is {text!r}: give a number") from error
