"""The layer that writes a line for each exchange."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import trio

from linkerd_proxy.core.background import open_background
from linkerd_proxy.core.codes import CANCEL, code_in, code_of
from linkerd_proxy.core.message import EMPTY, Body, Request, Response
from linkerd_proxy.core.notes import Notes, close_notes, open_notes
from linkerd_proxy.core.passing import counted, size_of
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.log_record import REDACTED, Record, formatter, redacted
from linkerd_proxy.metrics.log_writer import LogWriter
from linkerd_proxy.metrics.registry import current_registry

__all__ = ["AccessLog"]

_TRACE_IDS = ("x-b3-traceid", "x-request-id", "x-amzn-trace-id")  # as Linkerd looks for one


@dataclass(frozen=True, slots=True, repr=False)
class AccessLog(Layer[Exchange, Exchange]):
    """Writes a line for each exchange when its last byte has left, or when it failed.

    No exchange waits for it: lines go through one bounded queue to one task, and what does not fit is dropped and
    counted (``access_log_dropped_total``). Text that a peer chose is escaped and cut, values of query parameters that
    look like secrets are replaced, and of its headers only those are written that the format names.

    Args:
        format: ``apache`` (the common log format, with the client's identity), ``combined``, ``json`` (Linkerd's
            names), ``structlog``, or text with fields in braces: ``"{client} {status} {total} {backend} {retries}"``.
        to: A file to append to, or ``-`` for standard output. A file that is moved away is opened anew.
        queue: How many lines may wait to be written.
        redact: Query parameters whose values are replaced.

    Put it outermost, before ``Rescue``, to see the answers as the client does; what was routed, which backend
    answered and how many retries it took, inner layers tell it. A client that went away counts as ``CANCEL``.
    Cancellation writes the line and passes. Source: linkerd2-proxy, linkerd/http/access-log.

    Raises:
        InvalidConfiguration: for a format that can't be read, and (when opened) a file that can't be written.
    """

    format: str = "apache"
    to: str = "-"
    queue: int = 10_000
    redact: Collection[str] = REDACTED

    def __post_init__(self) -> None:
        formatter(self.format)
        if self.queue < 1:
            raise InvalidConfiguration(f"AccessLog(queue={self.queue!r}): give at least 1")
        if isinstance(self.redact, str):  # a collection too, of letters
            raise InvalidConfiguration(f"AccessLog(redact={self.redact!r}): give a tuple of names")

    @asynccontextmanager
    async def open(self, inner: Service[Exchange]) -> AsyncIterator[Service[Exchange]]:
        """Open the file, and write until closed."""
        path = None if self.to == "-" else Path(self.to)
        try:
            writer = LogWriter(path, formatter(self.format), self.queue, current_registry())
        except OSError as error:
            raise InvalidConfiguration(
                f"AccessLog(to={self.to!r}): {error.strerror}; name a file to write to"
            ) from None
        secrets = frozenset(name.lower() for name in self.redact)

        async def service(exchange: Exchange) -> None:
            notes, token = open_notes()
            seen = _Seen(exchange)
            failure = CANCEL  # what stands if nothing below says otherwise
            try:
                await inner(seen.exchange())
                failure = notes.failure or code_in(seen.response)
            except Exception as error:
                failure = code_of(error)
                raise
            finally:
                close_notes(notes, token)
                writer.put(seen.record(notes, failure, secrets))

        async with open_background() as nursery:
            nursery.start_soon(writer.run)
            try:
                yield service
            finally:
                nursery.cancel_scope.cancel()
                writer.close()


class _Seen:
    """What was seen of one exchange."""

    __slots__ = ("_began", "_exchange", "_headed", "_request", "_sent", "_started", "response")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._started = datetime.now(UTC).timestamp()  # the time of day is only told, never waited for
        self._began = self._headed = trio.current_time()
        self.response: Response | None = None
        self._request = exchange.request.replace(body=counted(exchange.request.body))
        self._sent: Body = EMPTY

    def exchange(self) -> Exchange:
        """Return the exchange for the inner service."""
        return Exchange(self._request, self._respond, self._exchange.connection)

    async def _respond(self, response: Response) -> None:
        if response.is_final and self.response is None:
            self.response = response
            self._headed = trio.current_time()
            self._sent = counted(response.body)
            response = response.replace(body=self._sent)
        await self._exchange.respond(response)

    def record(self, notes: Notes, failure: str, secrets: frozenset[str]) -> Record:
        """Return what there is to tell."""
        request, connection = self._request, self._exchange.connection
        response = self.response
        tls = connection.tls
        referer = request.headers.get("referer") or ""
        return Record(
            client=str(connection.peer),
            identity=(tls.peer_identity or "") if tls is not None else "",
            time=self._started,
            method=request.method,
            authority=request.authority,
            path=redacted(request.path, secrets),
            version=request.version,
            user_agent=request.headers.get("user-agent") or "",
            referer=redacted(referer, secrets) if referer else "",
            status=0 if response is None else response.status,
            request_bytes=size_of(self._request.body),
            response_bytes=size_of(self._sent),
            total=trio.current_time() - self._began,
            processing=self._headed - self._began,
            route=notes.route,
            backend=notes.backend,
            retries=notes.retries,
            failure=failure,
            trace_id=notes.trace_id or _called(request),
        )


def _called(request: Request) -> str:
    """Return what the client calls its request."""
    for name in _TRACE_IDS:
        if value := request.headers.get(name):
            return value
    return ""
