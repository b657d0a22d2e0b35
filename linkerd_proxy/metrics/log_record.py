"""One line of an access log: its fields, and the formats in which they are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted
from typing import NamedTuple

from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["REDACTED", "Record", "formatter", "redacted"]

REDACTED: tuple[str, ...] = (
    *("access_token", "api_key", "apikey", "auth", "authorization", "client_secret", "code", "credential", "id_token"),
    *("key", "passwd", "password", "pwd", "refresh_token", "secret", "session", "sig", "signature", "state", "token"),
)
"""Query parameters whose values are no business of a log's reader."""

_LONGEST = 2048  # characters of a field that a peer chose; own figure: a log is read by people


class Record(NamedTuple):
    """What is known of an exchange that has ended.

    Args:
        client: The client's address.
        identity: The name that it proved by mutual TLS, or empty.
        time: When its head came, in seconds since the epoch.
        method: The request's method.
        authority: The host that it asked for.
        path: The target with its query.
        version: The version of HTTP.
        user_agent: What the client says that it is.
        referer: Where it says that it comes from.
        status: The answer's status; 0 if there was none.
        request_bytes: Content that came.
        response_bytes: Content that was answered.
        total: Seconds from the request's head to the answer's last byte.
        processing: Seconds from the request's head to the answer's.
        route: What matched.
        backend: The endpoint that it was last sent to.
        retries: Tries beside the first.
        failure: The code of what failed (``linkerd-proxy explain CODE``), or empty.
        trace_id: The trace's id, or what the client calls the request.
    """

    client: str
    identity: str
    time: float
    method: str
    authority: str
    path: str
    version: str
    user_agent: str
    referer: str
    status: int
    request_bytes: int
    response_bytes: int
    total: float
    processing: float
    route: str
    backend: str
    retries: int
    failure: str
    trace_id: str


def redacted(path: str, names: Collection[str]) -> str:
    """Return a target, or a URL, with the values of some query parameters, and credentials, replaced."""
    if "@" in path:
        path = re.sub(r"(://)[^/?#]*@", r"\1(redacted)@", path)
    before, mark, query = path.partition("?")
    if not mark or "=" not in query:
        return path
    parts = [
        f"{part.partition('=')[0]}=(redacted)" if part.partition("=")[0].lower() in names else part
        for part in query.split("&")
    ]
    return f"{before}?{'&'.join(parts)}"


def formatter(form: str) -> Callable[[Record], str]:
    """Return what makes a line, without its end, of a record.

    Args:
        form: ``apache`` (the common log format), ``combined``, ``json`` (Linkerd's names), ``structlog`` (flat JSON
            with an ``event`` and a ``level``), or text with fields of :class:`Record` in braces.

    Raises:
        InvalidConfiguration: for a field that there is not, and for text without any.
    """
    named = _NAMED.get(form)
    if named is not None:
        return named
    parts = re.split(r"\{([^{}]*)\}", form)
    if len(parts) == 1:
        raise InvalidConfiguration(
            f"AccessLog(format={form!r}): give {', '.join(_NAMED)}, or text with fields, as in '{{method}} {{path}}'"
        )
    for name in parts[1::2]:
        if name not in _SHOWN:
            raise InvalidConfiguration(
                f"AccessLog(format=...): there is no field {name!r}: give some of {', '.join(_SHOWN)}"
            )

    def line(record: Record) -> str:
        return "".join(_SHOWN[part](record) if index % 2 else part for index, part in enumerate(parts))

    return line


# --- text --------------------------------------------------------------------------------------


def _escaped(text: str) -> str:
    """Return text without quotes, backslashes, ends of lines or other control characters."""
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "..."
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return text.encode("unicode_escape").decode("ascii").replace('"', '\\"')


def _or_dash(text: str) -> str:
    return _escaped(text) if text else "-"


def _seconds(name: str) -> Callable[[Record], str]:
    return lambda record: f"{getattr(record, name):.6f}"


def _plain(name: str) -> Callable[[Record], str]:
    return lambda record: _or_dash(str(getattr(record, name)))


_SHOWN: dict[str, Callable[[Record], str]] = {field: _plain(field) for field in Record._fields}
_SHOWN |= {
    "time": lambda record: _iso(record.time),
    "total": _seconds("total"),
    "processing": _seconds("processing"),
}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _apache(record: Record) -> str:
    when = datetime.fromtimestamp(record.time, UTC)
    stamp = f"{when.day:02}/{_MONTHS[when.month - 1]}/{when.year}:{when:%H:%M:%S} +0000"  # in no one's language
    return (
        f"{_or_dash(record.client)} {_or_dash(record.identity)} - [{stamp}] "
        f'"{_escaped(record.method)} {_escaped(record.path)} HTTP/{record.version}" '
        f"{record.status or '-'} {record.response_bytes or '-'}"
    )


def _combined(record: Record) -> str:
    return f'{_apache(record)} "{_or_dash(record.referer)}" "{_or_dash(record.user_agent)}"'


def _json(record: Record) -> str:
    return (
        f'{{"client.addr":{_text(record.client)},"client.id":{_text(record.identity)},'
        f'"timestamp":"{_iso(record.time)}","method":{_text(record.method)},"uri":{_text(record.path)},'
        f'"version":"HTTP/{record.version}","trace_id":{_text(record.trace_id)},'
        f'"request_bytes":{record.request_bytes},"status":{record.status},"response_bytes":{record.response_bytes},'
        f'"total_ns":{round(record.total * 1e9)},"processing_ns":{round(record.processing * 1e9)},'
        f'"user_agent":{_text(record.user_agent)},"host":{_text(record.authority)},"route":{_text(record.route)},'
        f'"backend":{_text(record.backend)},"retries":{record.retries},"error":{_text(record.failure)}}}'
    )


def _structlog(record: Record) -> str:
    level = "error" if record.status >= 500 or not record.status else "warning" if record.failure else "info"
    return (
        f'{{"event":"request","level":"{level}","timestamp":"{_iso(record.time)}","client":{_text(record.client)},'
        f'"identity":{_text(record.identity)},"method":{_text(record.method)},"host":{_text(record.authority)},'
        f'"path":{_text(record.path)},"status":{record.status},"duration":{record.total:.6f},'
        f'"request_bytes":{record.request_bytes},"response_bytes":{record.response_bytes},'
        f'"route":{_text(record.route)},"backend":{_text(record.backend)},"retries":{record.retries},'
        f'"error":{_text(record.failure)},"trace_id":{_text(record.trace_id)}}}'
    )


def _text(text: str) -> str:
    return quoted(text if len(text) <= _LONGEST else text[:_LONGEST] + "...")


_NAMED: dict[str, Callable[[Record], str]] = {
    "apache": _apache,
    "combined": _combined,
    "json": _json,
    "structlog": _structlog,
}
