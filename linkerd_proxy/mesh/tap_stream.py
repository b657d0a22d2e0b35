"""``/tap`` of the admin endpoint: live events as lines of JSON, for as long as somebody reads them."""

from __future__ import annotations

import json
from urllib.parse import parse_qs

from linkerd_proxy.core.message import Body, Response
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.tap_events import as_json
from linkerd_proxy.metrics.tap_match import Match
from linkerd_proxy.metrics.taps import OpenTap, current_taps

__all__ = ["Lines", "stream_tap"]

_ALIVE = 10.0  # seconds of silence after which an empty line tells whether the reader is still there
_TEXTS = ("method", "path", "authority", "source", "client_id")


async def stream_tap(exchange: Exchange) -> None:
    """Answer ``/tap?method=GET&path=/api&limit=100`` with events until the limit is reached or the reader goes.

    The query may have ``method``, ``path``, ``authority``, ``source``, ``port``, ``client_id`` and ``label`` (as
    ``name=value``, also several), which are those of :class:`~linkerd_proxy.metrics.tap_match.Match`, and ``limit``,
    ``sample`` (a share) and ``headers`` (``true``). What the reader is too slow for is dropped, and a line says how
    many.

    Raises:
        InvalidConfiguration: for a query that means nothing; nothing was answered then.
        Overloaded: if too many taps are open.
    """
    match, limit, sample, headers = _parse(exchange.request.path.partition("?")[2])
    with current_taps().open(match, limit=limit, sample=sample, headers=headers) as tap:
        await exchange.respond(Response(200, [("content-type", "application/x-ndjson")], Lines(tap)))


class Lines(Body):
    """What a tap shows as lines of JSON, until its limit is reached, and how much its reader was too slow for."""

    __slots__ = ("_tap",)

    def __init__(self, tap: OpenTap) -> None:
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
