"""A stream of a server: the request that came on it, and the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from linkerd_proxy.core.contain import record_failure
from linkerd_proxy.core.message import EMPTY, Body, Request, Response, Whole
from linkerd_proxy.errors import (
    AlreadyAnswered,
    BadRequest,
    IdleTimeout,
    NotAnswered,
    ProxyError,
    RequestRefused,
    RequestTimeout,
    UpstreamProtocolError,
    UpstreamReset,
    UpstreamUnsent,
)
from linkerd_proxy.headers import Headers, RawHeaders
from linkerd_proxy.http.h2.channel import Channel, end_to_end
from linkerd_proxy.http.h2.codes import ErrorCode
from linkerd_proxy.http.h2.decoder import Block
from linkerd_proxy.http.h2.incoming import Incoming
from linkerd_proxy.http.h2.stream import Stream
from linkerd_proxy.http.h2.websocket import accepted_in_h2, asked_in_h2
from linkerd_proxy.http.refused import refusal_of
from linkerd_proxy.http.validate import check_response, trailers_from

if TYPE_CHECKING:
    from linkerd_proxy.http.h2.server import H2Server

__all__ = ["ServerChannel"]

_LINGER_BYTES = 1 << 20  # what a client may still upload, unread, while it reads its answer; as in HTTP/1
_STATUS = {code: b"%d" % code for code in range(100, 600)}


class ServerChannel(Channel["H2Server"]):
    """One exchange of a client's connection.

    Args:
        link: The connection.
        stream: The stream.
        prototype: The request as the validator read it, shared by all that look the same.
    """

    __slots__ = ("_answered", "_expects", "_informed", "_prototype", "_tunnel", "_tunnel_done", "scope")

    def __init__(self, link: H2Server, stream: Stream, prototype: Request) -> None:
        super().__init__(link, stream)
        stream.sink = self
        stream.tunnel = prototype.wants_tunnel
        self.body.length = prototype.body.length if prototype.body is not EMPTY else None
        self.scope: trio.CancelScope = trio.CancelScope()
        self._prototype = prototype
        self._answered = False
        self._informed = 0
        self._tunnel: trio.Event | None = None
        self._tunnel_done = False
        self._expects = (b"expect", b"100-continue") in prototype.headers.raw

    def request(self) -> Request:
        """Return the request, with headers and a body of its own."""
        seen = self._prototype
        body: Body = self.body
        if self.stream.remote_closed and not self.stream.received:
            body = EMPTY if seen.body is EMPTY else Whole()
            self.body.finished = True
        raw = asked_in_h2(seen.headers.raw) if seen.upgrade else seen.headers.raw.copy()
        return Request(
            seen.method,
            seen.path,
            Headers.of(raw),
            body,
            authority=seen.authority,
            scheme=seen.scheme,
            version="2",
            upgrade=seen.upgrade,
        )

    # --- the engine's sink ---

    def on_head(self, block: Block, ended: bool) -> None:
        """Clients have no second head: the engine takes it for trailers."""

    def on_end(self, trailers: Block | None) -> None:
        """Let the body end."""
        kept: Headers | None = None
        if trailers is not None:
            try:
                kept = trailers_from(trailers.fields)
            except BadRequest:
                self._breach(ErrorCode.PROTOCOL_ERROR)
                self.link.engine.blame()
                return
        self.body.end(kept)

    def on_reset(self, code: int, remote: bool, problem: str) -> None:
        """The client no longer wants the answer, or may not have it."""
        self.scope.cancel()

    def _breach(self, code: ErrorCode) -> None:
        self.link.engine.reset(self.stream, code)
        self.scope.cancel()

    # --- deadlines ---

    def patience(self, body: Incoming) -> float | None:
        """Hold clients to a pace until they are answered. Calls and tunnels may be silent as long as they like."""
        limits = self.link.limits
        if self._tunnel is not None:
            return limits.tunnel_idle if self.stream.local_closed else None
        if self._answered or self._prototype.is_grpc:
            return None
        pace = limits.body_grace + body.received / limits.body_rate - body.waited if limits.body_rate else _LONG
        return max(0.0, min(limits.body_idle, pace))

    def body_wanted(self) -> None:
        """Tell a client that waits for 100 to go on, unless the upstream has (RFC 9110 section 10.1.1)."""
        if self._expects and not self._informed and not self._answered:
            self._informed += 1
            self.link.engine.send_head(self.stream, [(b":status", b"100")], end=False)

    def body_late(self) -> None:
        """Answer 408, if there is no answer yet, and end the exchange."""
        if not self._answered:
            self._refusal(RequestTimeout("the request's body took too long", layer="Http"))
        self._breach(ErrorCode.CANCEL)

    def stalled(self) -> None:
        """Cut off a client that takes nothing of its answer."""
        late = IdleTimeout("the client took nothing of the answer", layer="Http", waited=self.link.limits.write_stall)
        record_failure(late, self.link.connection)
        self._breach(ErrorCode.CANCEL)

    def body_finished(self) -> None:
        """Let a tunnel end that only waits for this direction."""
        self._tunnel_done = True
        if self._tunnel is not None:
            self._tunnel.set()

    # --- the answer ---

    async def respond(self, response: Response) -> None:
        """Send the response; see :class:`~linkerd_proxy.core.work.Exchange`."""
        if self._answered:
            raise AlreadyAnswered(f"{response!r} comes after the final response", layer="Http")
        raw = end_to_end(response.headers.raw)
        check_response(response if raw is response.headers.raw else Response(response.status, Headers.of(raw)))
        if not response.is_final:
            self._inform(response, raw)
            return
        self._answered = self.stream.responded = True
        status = response.status
        if self._prototype.wants_tunnel and (status == 101 or (status < 300 and self._prototype.method == "CONNECT")):
            await self._open_tunnel(raw, response.body)
            return
        if status == 101:
            raise UpstreamProtocolError("101 without a request for it", layer="Http")
        await self._send(response, status, raw)

    async def _send(self, response: Response, status: int, raw: RawHeaders) -> None:
        body = response.body
        engine = self.link.engine
        empty = self._prototype.method == "HEAD" or status in {204, 304}
        # The end of the stream says that nothing follows. Who told no length is passed on without one: to gRPC it would
        # be a field of the call's own (RFC 9113 section 8.1.1; gRPC over HTTP/2, "Trailers-Only").
        length = None if body is EMPTY else body.length
        declared = response.declared_length if empty and response.declared_length is not None else length
        fields: RawHeaders = [(b":status", _STATUS[status]), *raw]
        # An empty body tells no length of a HEAD's content; an upstream that declared one of zero does.
        if declared is not None and status != 204 and (declared or not empty or response.declared_length == 0):
            fields.append((b"content-length", b"%d" % declared))
        if empty or body is EMPTY or (length == 0 and type(body) is Whole and not body.trailers):
            engine.send_head(self.stream, fields, end=True)
            return
        engine.send_head(self.stream, fields, end=False)
        if type(body) is Whole:
            await self.send_whole(body)
            return
        await self._stream(body, length)

    async def _stream(self, body: Body, length: int | None) -> None:
        try:
            await self.send_body(body, length)
        except Exception as error:  # the message must visibly be cut short before anybody can act on the failure
            self.link.engine.reset(self.stream, _reset_code(error))
            raise

    def _inform(self, response: Response, raw: RawHeaders) -> None:
        self._informed += 1
        if self._informed > self.link.limits.max_informational:
            raise UpstreamProtocolError("more 1xx responses than Limits(max_informational=...) allows", layer="Http")
        self.link.engine.send_head(self.stream, [(b":status", _STATUS[response.status]), *raw], end=False)

    async def _open_tunnel(self, raw: RawHeaders, body: Body) -> None:
        """Answer 200 and relay until both directions have ended (RFC 9113 section 8.5, RFC 8441 section 5)."""
        self._tunnel = trio.Event()
        if self._tunnel_done:
            self._tunnel.set()
        self.link.engine.send_head(self.stream, [(b":status", b"200"), *accepted_in_h2(raw)], end=False)
        await self._stream(body, None)
        await self._tunnel.wait()

    # --- failures ---

    def unanswered(self) -> ProxyError | None:
        """Return what is wrong if the service returned without an answer, or with half of one."""
        if not self._answered:
            return NotAnswered(f"nobody answered {self._prototype!r}", layer="Http")
        if not self.stream.local_closed and not self.stream.dead:
            return NotAnswered(f"the answer to {self._prototype!r} was given up half-way", layer="Http")
        return None

    def fail(self, error: Exception) -> None:
        """Count and log a failed exchange, and answer it as far as that is possible."""
        record_failure(error, self.link.connection)
        if self._answered or isinstance(error, UpstreamReset | UpstreamUnsent):
            self.link.engine.reset(self.stream, _reset_code(error))
            return
        self._refusal(error)

    def refuse(self, error: BadRequest) -> None:
        """Answer a request that is malformed or not served, without an exchange and without harm to other streams.

        Malformed is a stream error (RFC 9113 section 8.1.1), before which the client gets an explanation.
        """
        if isinstance(error, RequestRefused):
            self._refusal(error)
            self.link.engine.reset(self.stream, ErrorCode.NO_ERROR)
        else:
            self._refusal(error, end=False)
            self.link.engine.reset(self.stream, ErrorCode.PROTOCOL_ERROR)
        self.finish_body()

    def _refusal(self, error: Exception, *, end: bool = True) -> None:
        status, told = refusal_of(error)
        fields: RawHeaders = [(b":status", _STATUS[status])]
        if self._prototype.is_grpc:
            # gRPC tells failures in trailers; these are the only ones (gRPC over HTTP/2, "Trailers-Only").
            code = error.grpc_status if isinstance(error, ProxyError) else 13
            fields = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"%d" % code)]
        if told:
            fields.append((b"l5d-proxy-error", told))
        self._answered = self.stream.responded = True
        self.link.engine.send_head(self.stream, fields, end=end)

    async def take_rest(self) -> None:
        """Take in what a client still uploads although it has its answer, for a while and up to a limit.

        RFC 9113 section 8.1 lets a server stop such an upload at once by RST_STREAM(NO_ERROR), but clients that find
        the answer and the reset in one read take the exchange for failed (curl 7.88).
        """
        stream = self.stream
        if stream.dead or stream.remote_closed or not stream.local_closed or self._tunnel is not None:
            return
        if self._expects and not self._informed:
            return  # it was never told to send the body
        taken = 0
        with trio.move_on_after(self.link.limits.linger):
            while taken <= _LINGER_BYTES and (chunk := await self.body.pull()):
                taken += len(chunk)

    def close(self) -> None:
        """End the stream, whose task is over: an upload that nobody reads any more is stopped."""
        stream = self.stream
        if not self.link.ending:
            self.link.engine.reset(stream, ErrorCode.NO_ERROR if stream.local_closed else ErrorCode.CANCEL)
        self.finish_body()

    def __repr__(self) -> str:
        return f"<ServerChannel {self._prototype!r} on {self.stream!r}>"


_LONG = 1e9


def _reset_code(error: Exception) -> int:
    """Return the code that tells the client what became of its stream; an upstream's own passes."""
    if isinstance(error, UpstreamReset) and error.http2_code is not None:
        return error.http2_code
    return ErrorCode.REFUSED_STREAM if isinstance(error, UpstreamUnsent) else ErrorCode.INTERNAL_ERROR
