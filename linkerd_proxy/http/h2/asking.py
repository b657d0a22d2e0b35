"""A stream of a client: the request that was sent on it, and the response that comes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from linkerd_proxy.core.message import EMPTY, Body, Request, Response, Whole
from linkerd_proxy.core.waiter import Waiter
from linkerd_proxy.errors import (
    BadRequest,
    IdleTimeout,
    ProxyError,
    RequestRefused,
    UpstreamProtocolError,
    UpstreamReset,
    UpstreamUnsent,
)
from linkerd_proxy.headers import Headers, RawHeaders
from linkerd_proxy.http.deadlines import Deadline
from linkerd_proxy.http.h2.channel import Channel, end_to_end
from linkerd_proxy.http.h2.codes import ErrorCode, code_name
from linkerd_proxy.http.h2.decoder import Block
from linkerd_proxy.http.h2.incoming import Incoming
from linkerd_proxy.http.h2.stream import Stream
from linkerd_proxy.http.h2.websocket import accepted_in_h1, asking_h2
from linkerd_proxy.http.validate import response_from_h2, trailers_from

if TYPE_CHECKING:
    from linkerd_proxy.http.h2.client import H2Client

__all__ = ["ClientChannel"]


class ClientChannel(Channel["H2Client"]):
    """One exchange of a connection to an upstream.

    Args:
        link: The connection.
        stream: The stream.
        request: What is asked on it.
    """

    __slots__ = (
        "_deadline",
        "_error",
        "_heads",
        "_informed",
        "_key",
        "_reader",
        "mark",
        "proceed",
        "request",
        "tunnelling",
    )

    def __init__(self, link: H2Client, stream: Stream, request: Request) -> None:
        super().__init__(link, stream)
        stream.sink = self
        stream.tunnel = request.wants_tunnel
        stream.no_content = request.method == "HEAD"
        self.request: Request = request
        self.mark: int = link.engine.outbox.queued
        """Where in the outbox the head begins: as long as less was taken, the request was surely not sent."""
        self.proceed: trio.Event = trio.Event()
        """Set when the upstream has said anything, which an upload with ``Expect`` waits for."""
        self.tunnelling: bool = False
        """Whether the upstream has agreed to a tunnel."""
        self._deadline: Deadline = link.deadlines.add(self.body_late)
        self._heads: deque[tuple[Block, bool]] = deque()
        self._informed = 0
        self._reader = Waiter()
        self._error: ProxyError | None = None
        self._key: bytes | None = None

    # --- asking ---

    def send_request(self) -> bool:
        """Queue the head, and a small body with it; return whether content remains to be sent."""
        request = self.request
        body = request.body
        engine = self.link.engine
        try:
            fields = self._fields()
        except RequestRefused:
            engine.abandon(
                self.stream
            )  # the upstream never heard of it: a reset would be a breach that ends all streams
            raise
        if request.wants_tunnel:
            engine.send_head(self.stream, fields, end=False)
            return True
        if body.length is not None and body is not EMPTY:
            fields.append((b"content-length", b"%d" % body.length))
        if not isinstance(body, Whole):
            engine.send_head(self.stream, fields, end=False)
            return True
        if not body.data and not body.trailers:
            engine.send_head(self.stream, fields, end=True)
            return False
        engine.send_head(self.stream, fields, end=False)
        if body.trailers or self.link.crowded or len(body.data) > self.link.allowance(self.stream):
            return True
        engine.send_data(self.stream, body.data, end=True)
        return False

    def _fields(self) -> RawHeaders:
        request = self.request
        raw = end_to_end(request.headers.raw)
        method = request.method.encode("latin-1")
        authority = request.authority.encode("latin-1")
        if method == b"CONNECT":
            return [(b":method", method), (b":authority", authority), *raw]
        fields = [(b":method", method), (b":scheme", request.scheme.encode("latin-1"))]
        if request.upgrade is not None:
            raw, self._key = asking_h2(raw)
            fields[0] = (b":method", b"CONNECT")
            fields.append((b":protocol", request.upgrade.encode("latin-1")))
        if authority:
            fields.append((b":authority", authority))
        fields.append((b":path", request.path.encode("latin-1")))
        fields += raw
        limit = self.link.engine.peer.header_list
        if limit is not None and sum(len(name) + len(value) + 32 for name, value in fields) > limit:
            raise RequestRefused(f"the upstream takes heads of {limit} bytes at most", 431, layer="Client")
        return fields

    # --- the engine's sink ---

    def on_head(self, block: Block, ended: bool) -> None:
        """Keep a head for :meth:`head`."""
        self._heads.append((block, ended))
        self._informed += 1
        if ended:
            self.body.end(None)
        if self._informed > self.link.limits.max_informational + 1:
            self._refuse(UpstreamProtocolError("more 1xx responses than Limits(max_informational=...) allows"))
        if not self.request.wants_tunnel:
            self.proceed.set()
        self._reader.wake()

    def on_end(self, trailers: Block | None) -> None:
        """Let the body end."""
        kept: Headers | None = None
        if trailers is not None:
            try:
                kept = trailers_from(trailers.fields)
            except BadRequest as error:
                self._refuse(UpstreamProtocolError(f"the upstream's trailers are malformed: {error.problem}"))
                return
        self.body.end(kept)

    def on_reset(self, code: int, remote: bool, problem: str) -> None:
        """Fail with what the peer said, or did."""
        error: ProxyError
        if not remote:
            error = UpstreamProtocolError(f"{code_name(code)}: {problem}", layer="Client")
        elif code == ErrorCode.REFUSED_STREAM and not self.stream.headed:
            error = UpstreamUnsent("the upstream refused the stream", layer="Client")
        else:
            error = UpstreamReset(f"the upstream reset the stream with {code_name(code)}", layer="Client")
            error.http2_code = code
        self.fail(error)

    def fail(self, error: ProxyError) -> None:
        """End the exchange with an error, for whoever waits for a head, content, or a window."""
        if self._error is None:
            self._error = error
        self.body.fail(error)
        self.proceed.set()
        self._reader.wake()
        self._sender.wake()

    def _refuse(self, error: ProxyError) -> None:
        self._heads.clear()
        self.link.engine.reset(self.stream, ErrorCode.PROTOCOL_ERROR)
        self.fail(error)

    # --- deadlines ---

    def patience(self, body: Incoming) -> float | None:
        """Wait for content as long as upstreams may be silent; calls and tunnels as long as they like."""
        if self.request.wants_tunnel:
            return self.link.limits.tunnel_idle if self.stream.local_closed else None
        return None if self.request.is_grpc else self.link.limits.upstream_idle

    def body_late(self) -> None:
        """Give up on an upstream that is silent."""
        self.link.engine.reset(self.stream, ErrorCode.CANCEL)
        limit = self.link.limits.upstream_idle
        self.fail(IdleTimeout("the upstream sends nothing", layer="Client", waited=limit))

    def stalled(self) -> None:
        """Give up on an upstream whose windows stay closed."""
        self.link.engine.reset(self.stream, ErrorCode.CANCEL)
        limit = self.link.limits.write_stall
        self.fail(IdleTimeout("the upstream takes nothing of the request", layer="Client", waited=limit))

    # --- the response ---

    async def head(self) -> Response:
        """Wait for the next head, and return it as a response whose body is ready to be pulled."""
        if not self._heads and self._error is None:
            if not self.request.is_grpc:
                self._deadline.deadline = trio.current_time() + self.link.limits.upstream_idle
            while not self._heads and self._error is None:
                await self._reader.wait()
            self._deadline.deadline = _NEVER
        if not self._heads:
            assert self._error is not None
            raise self._error
        block, ended = self._heads.popleft()
        try:
            return self._response(block, ended)
        except UpstreamProtocolError:
            self.link.engine.reset(self.stream, ErrorCode.PROTOCOL_ERROR)
            raise

    def _response(self, block: Block, ended: bool) -> Response:
        if block.oversized:
            raise UpstreamProtocolError("the upstream's head is larger than Limits(max_head=..., max_fields=...) allow")
        method = self.request.method
        memo = block.memo
        if isinstance(memo, tuple) and memo[0] == method:
            seen: Response = memo[1]
        else:
            seen = response_from_h2(block.fields, method, self.link.limits)
            block.memo = (method, seen)
        raw = seen.headers.raw.copy()
        status = seen.status
        body: Body = EMPTY
        if self.request.wants_tunnel and 200 <= status < 300:
            body = self.body
            self.tunnelling = True
            self.proceed.set()
            if self.request.upgrade is not None:
                status, raw = 101, accepted_in_h1(raw, self._key)
        elif ended:
            body = EMPTY if seen.body.length is None or seen.body is EMPTY else Whole()
        elif status >= 200 and not self.stream.no_content:
            body = self.body
            body.length = None if seen.body is EMPTY else seen.body.length
        return Response(status, Headers.of(raw), body, version="2", declared_length=seen.declared_length)

    def close(self) -> None:
        """End the stream, which nobody wants any more unless both sides have said all."""
        if not self.link.ending:
            self.link.engine.reset(self.stream, ErrorCode.CANCEL)
        self.finish_body()
        self.link.deadlines.remove(self._deadline)

    def __repr__(self) -> str:
        return f"<ClientChannel {self.request!r} on {self.stream!r}>"


_NEVER = float("inf")
