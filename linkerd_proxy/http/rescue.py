"""The layer that turns failures into answers."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import trio

from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.contain import record_failure
from linkerd_proxy.core.message import Body, Response, Whole
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import (
    AlreadyAnswered,
    GrpcStatus,
    NotAnswered,
    ProxyError,
    UpstreamProtocolError,
    UpstreamReset,
)
from linkerd_proxy.headers import Headers

__all__ = ["Rescue", "Verdict", "explain"]

_MAX_MESSAGE = 512  # characters of an explanation in a header: own figure, a small part of what heads may be long


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failure means to the client, in HTTP and in gRPC.

    Args:
        code: The failure's short code.
        message: One line of printable ASCII, at most 512 characters, for a header.
        status: The HTTP status.
        grpc_status: The gRPC status.
        closes: Whether the client's HTTP/1 connection ends with it.
        retry_after: Seconds after which to try again, or None.
    """

    code: str
    message: str
    status: int
    grpc_status: GrpcStatus
    closes: bool
    retry_after: int | None = None


def explain(error: Exception) -> Verdict:
    """Say what a failure means to the client: Linkerd's table of error answers."""
    if isinstance(error, ProxyError):
        return Verdict(
            error.code,
            _one_line(str(error)),
            error.status,
            error.grpc_status,
            error.closes,
            None if error.retry_after is None else max(1, math.ceil(error.retry_after)),
        )
    if isinstance(error, OSError | trio.BrokenResourceError):
        message = "the connection to the upstream failed; look into the proxy's log"
        return Verdict("IO", message, 502, GrpcStatus.UNAVAILABLE, closes=True)
    # The text of an unexpected exception may hold anything: it goes to the log and not to the client.
    message = "the proxy met an unexpected error; look into its log"
    return Verdict("BUG", message, 500, GrpcStatus.INTERNAL, closes=True)


def _one_line(text: str) -> str:
    line = text.strip().encode("unicode_escape").decode("ascii")
    return line if len(line) <= _MAX_MESSAGE else line[: _MAX_MESSAGE - 3] + "..."


@dataclass(frozen=True, slots=True, repr=False)
class Rescue(Layer[Exchange, Exchange]):
    """Answers exchanges that failed, as Linkerd does: no body, the failure's status, and why in a header.

    An exchange that has no answer yet gets one: the status of the :exc:`~linkerd_proxy.errors.ProxyError`, 502 for a
    connection that broke, 500 for anything unexpected, and 502 where nobody answered at all. gRPC calls get HTTP 200
    with ``grpc-status`` and ``grpc-message`` instead. Where the error says so, an HTTP/1 connection ends with the
    answer. The failure is counted in ``proxy_errors_total`` and logged on one line.

    An answer that has begun can't be taken back. A gRPC answer is ended with trailers that tell the failure; any
    other failure passes through, and the codec aborts the message visibly. So does the reset of an HTTP/2 stream for an
    HTTP/2 client, whose code then reaches it.

    Args:
        headers: Whether answers carry ``l5d-proxy-error`` with the code and the message, which names addresses;
            ``"meshed"`` for those to clients that proved an identity.
    """

    headers: bool | Literal["meshed"] = True

    @asynccontextmanager
    async def open(self, inner: Service[Exchange]) -> AsyncIterator[Service[Exchange]]:
        """Yield the live service."""

        async def service(exchange: Exchange) -> None:
            rescued = _Rescued(exchange, self.headers)
            try:
                await inner(rescued)
                if not rescued.answered:
                    raise NotAnswered("no layer answered the request", layer="Rescue")
            except Exception as error:
                await rescued.rescue(unwrapped(error))

        yield service


class _Rescued(Exchange):
    """An exchange that tells whether it has been answered."""

    __slots__ = ("_headers", "_send", "answered")

    def __init__(self, exchange: Exchange, headers: bool | Literal["meshed"]) -> None:
        self.request = exchange.request
        self.connection = exchange.connection
        self._send = exchange.respond
        self._headers: bool | Literal["meshed"] = headers
        self.answered = False

    def respond(self, response: Response) -> Awaitable[None]:
        if response.status >= 200 or response.is_final:
            self.answered = True
            if not isinstance(response.body, Whole) and self.request.is_grpc:
                response = response.replace(body=_GrpcBody(response.body, self))
        return self._send(response)

    async def rescue(self, error: Exception) -> None:
        """Answer a failure, or raise it where that is too late or where the client shall see it as it is."""
        # The codec may have refused the answer for its head, so that nothing was sent, or broken it off for its body.
        refused = self.answered and isinstance(error, UpstreamProtocolError)
        if self.answered and not refused:
            raise error
        if isinstance(error, UpstreamReset) and error.http2_code is not None and self.request.version == "2":
            raise error
        answer = self.answer(explain(error))
        if refused:
            try:
                await self._send(answer)
            except AlreadyAnswered:  # it was the body, half-way: the codec has aborted the message
                raise error from None
            record_failure(error, self.connection)
        else:
            record_failure(error, self.connection)
            await self._send(answer)

    @property
    def explains(self) -> bool:
        """Whether the client may read why."""
        if self._headers == "meshed":
            tls = self.connection.tls
            return tls is not None and tls.peer_identity is not None
        return self._headers

    def answer(self, verdict: Verdict) -> Response:
        request = self.request
        fields: list[tuple[str, str]] = []
        status = verdict.status
        if request.is_grpc:
            status = 200
            fields += [("content-type", "application/grpc"), *_grpc_fields(verdict)]
        elif verdict.closes and request.version in {"1.0", "1.1"}:
            fields.append(("connection", "close"))
        if verdict.retry_after is not None:
            fields.append(("retry-after", str(verdict.retry_after)))
        if self.explains:
            fields.append(("l5d-proxy-error", f"{verdict.code} {verdict.message}"))
        return Response(status, fields)


class _GrpcBody(Body):
    """The body of a gRPC answer, which ends with trailers even where the upstream's fails."""

    __slots__ = ("_body", "_ended", "_rescued")

    def __init__(self, body: Body, rescued: _Rescued) -> None:
        super().__init__(body.length)
        self.trailers = body.trailers
        self._body = body
        self._rescued = rescued
        self._ended = False

    async def pull(self) -> bytes:
        """Return the next chunk. A failure becomes the end, with trailers that tell it."""
        if self._ended:
            return b""
        try:
            chunk = await self._body.pull()
        except Exception as error:
            self._end(unwrapped(error))
            return b""
        if not chunk:
            self._ended = True
            self.trailers = self._body.trailers
        return chunk

    def _end(self, error: Exception) -> None:
        rescued = self._rescued
        if self.length is not None or (isinstance(error, UpstreamReset) and error.http2_code is not None):
            raise error  # trailers would lie about the length that was promised; the client knows what a reset means
        record_failure(error, rescued.connection)
        verdict = explain(error)
        fields = _grpc_fields(verdict)
        if rescued.explains:
            fields.append(("l5d-proxy-error", f"{verdict.code} {verdict.message}"))
        self._ended = True
        self.trailers = Headers(fields)

    def __repr__(self) -> str:
        return f"<gRPC body over {self._body!r}>"


def _grpc_fields(verdict: Verdict) -> list[tuple[str, str]]:
    # "Percent-Encoded" of gRPC's HTTP/2 protocol: all but printable ASCII and the percent sign. The message is ASCII.
    message = verdict.message.replace("%", "%25")
    return [("grpc-status", str(int(verdict.grpc_status))), ("grpc-message", message)]
