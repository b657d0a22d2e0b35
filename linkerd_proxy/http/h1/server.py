"""Serving one HTTP/1 connection: read a head, serve the exchange in this very task, go on with the next."""

from __future__ import annotations

import math
from typing import NoReturn

import trio

from linkerd_proxy.core.clock import open_clock
from linkerd_proxy.core.kept_scope import KeptScope
from linkerd_proxy.core.message import EMPTY, Body, Request, Whole
from linkerd_proxy.core.stack import Service
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.errors import BadRequest, IdleTimeout, NotAnswered, ProxyError, RequestRefused, RequestTimeout
from linkerd_proxy.http.deadlines import Deadline, Deadlines
from linkerd_proxy.http.fields import Framing
from linkerd_proxy.http.h1.answer import Answer
from linkerd_proxy.http.h1.body import Incoming, make_body
from linkerd_proxy.http.h1.heads import Heads
from linkerd_proxy.http.h1.scan import find_end, plausible
from linkerd_proxy.http.h1.serialise import refusal_head
from linkerd_proxy.http.h1.tunnel import TunnelBody
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.refused import refusal_of
from linkerd_proxy.io.streams import abort_nowait, has_unread, send_now_of, watch_hangup

__all__ = ["ServerConnection", "serve_h1"]

_READ = 65536
_CR = 13
_LINGER_BYTES = 1 << 20  # what a client may still send, unread, while it reads its answer
_PIECE = 262_144  # a write deadline covers this much: a slow reader of a large body is not a stalled one
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


async def serve_h1(
    connection: Connection,
    inner: Service[Exchange],
    heads: Heads,
    deadlines: Deadlines,
    initial: bytes = b"",
    since: float | None = None,
) -> None:
    """Serve a connection's requests, one after the other, until either side has had enough.

    Args:
        connection: What to serve.
        inner: Serves the exchanges.
        heads: The codec and the limits.
        deadlines: Where the connection's deadlines are swept.
        initial: What was received already.
        since: When the wait for the first head began, in Trio's time; now, if None.

    Raises:
        ProxyError: what the client did wrong, or what the service raised; the client was told as far as it could be.
    """
    server = ServerConnection(connection, inner, heads, deadlines, initial)
    server.reading.deadline = (trio.current_time() if since is None else since) + heads.limits.header_timeout
    watch_hangup(server.stream, server.scope.cancel)
    try:
        with connection.drain.calling(server.on_drain), server.scope, KeptScope():
            await server.run()
        watch_hangup(server.stream, None)
        if server.refusal is not None:
            await server.refuse(server.refusal)
            raise server.refusal
        if not server.over:
            await server.linger()
    finally:
        watch_hangup(server.stream, None)
        deadlines.remove(server.reading)
        deadlines.remove(server.writing)


class ServerConnection:
    """One client's connection. All its exchanges run in one cancel scope, for each of them is the last if it fails."""

    __slots__ = (
        "_answer",
        "_clock",
        "_count",
        "_half_open",
        "_idle",
        "_inner",
        "_scheme",
        "_send_now",
        "_waited",
        "body",
        "buffer",
        "connection",
        "continue_due",
        "heads",
        "over",
        "reading",
        "refusal",
        "scope",
        "stream",
        "writing",
    )

    def __init__(
        self, connection: Connection, inner: Service[Exchange], heads: Heads, deadlines: Deadlines, initial: bytes
    ) -> None:
        self.connection: Connection = connection
        self.stream: trio.abc.HalfCloseableStream = connection.stream
        self.heads: Heads = heads
        self.buffer: bytes = initial
        self.scope: trio.CancelScope = trio.CancelScope()
        self.reading: Deadline = deadlines.add(self.on_read_timeout)
        self.writing: Deadline = deadlines.add(self.on_write_timeout)
        self.refusal: ProxyError | None = None
        """Why the connection was given up, if the client is to be told."""
        self.body: Body = EMPTY
        """The current request's body as it comes in."""
        self.continue_due: bool = False
        """Whether the client waits for 100 before it sends the body."""
        self._inner = inner
        self._clock = open_clock()
        self._send_now = send_now_of(connection.stream)
        self._scheme = "https" if connection.tls is not None else "http"
        self._answer: Answer | None = None
        self._count = 0
        self.over: bool = False
        """Whether the client's end came, or the connection broke: nothing more is to be taken in."""
        self._idle = False
        self._half_open = False
        self._waited = 0.0

    # --- the loop ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve exchanges until the connection is to be closed; ``refusal`` tells what the client did wrong."""
        while True:
            self._answer = None
            try:
                end = await self._next_head()
                if not end:
                    return
                request, framing = self.heads.request(self.buffer[:end], self._scheme)
            except BadRequest as error:
                self.refusal = error
                return
            self._begin(request, framing, end)
            self._count += 1
            keep_alive = framing.keep_alive and self._count < self.heads.limits.max_requests
            answer = self._answer = Answer(self, request, framing, keep_alive and not request.wants_tunnel)
            try:
                await self._inner(Exchange(request, answer.respond, self.connection))
            except Exception as error:
                if not answer.begun:
                    await self.refuse(error)
                raise
            if not answer.complete:
                await self._give_up(request, answer)
            if not answer.keep_alive or not (self._is_body_done() or await self._finish_body()):
                return

    async def _next_head(self) -> int:
        """Wait for a whole head in the buffer; return where it ends, or 0 if the client has nothing more to say."""
        limits = self.heads.limits
        if not self.buffer:
            drain = self.connection.drain
            if drain.draining and not drain.patient and not has_unread(self.stream):
                return 0
            self._idle = True
            if self._count:
                self.reading.deadline = self._clock() + limits.keep_alive_idle
            try:
                self.buffer = bytes(await self.stream.receive_some(_READ))
            except _GONE:
                self.over = True  # between two requests there is nothing to cancel
                return 0
            self._idle = False
            if not self.buffer:
                self.over = True
                return 0
        end = find_end(self.buffer, 0)
        if end < 0 or self.buffer[0] in b"\r\n":
            end = await self._collect_head(limits)
        self.reading.deadline = math.inf
        return end

    async def _collect_head(self, limits: Limits) -> int:
        """Receive until the head is whole, against one absolute deadline that no byte moves."""
        if self._count:
            self.reading.deadline = self._clock() + limits.header_timeout
        seen = 0
        skipped = False
        while True:
            if not skipped and self.buffer.startswith((b"\r\n", b"\n")):
                # RFC 9112 section 2.2: some clients send an empty line after a body. One is enough.
                self.buffer = self.buffer[2 if self.buffer[0] == _CR else 1 :]
                skipped = True
            end = find_end(self.buffer, max(0, seen - 3))
            if end > 0:
                return end
            plausible(self.buffer, seen)
            if len(self.buffer) > limits.max_head:
                status = 431 if b"\n" in self.buffer else 414
                raise RequestRefused(f"the head is larger than the {limits.max_head} bytes it may have", status)
            seen = len(self.buffer)
            data = await self.receive()
            if not data:
                return 0
            self.buffer += data

    def _begin(self, request: Request, framing: Framing, end: int) -> None:
        """Put the request's body in place, whole if it is here already."""
        self.buffer = rest = self.buffer[end:]
        self.continue_due = False
        self._waited = 0.0
        length = framing.length
        if request.wants_tunnel:
            self.body = request.body = TunnelBody(self.receive_tunnel)
        elif length == 0:
            self.body = EMPTY
        elif length is not None and length <= len(rest):
            self.body = request.body = Whole(rest[:length])
            self.buffer = rest[length:]
        else:
            self.body = request.body = make_body(self, framing, self.heads.limits)
            self.continue_due = framing.expects_continue

    async def _give_up(self, request: Request, answer: Answer) -> NoReturn:
        """End an exchange whose service returned before its answer was complete."""
        if answer.begun:
            self.abort()
            raise NotAnswered(f"the answer to {request!r} was given up half-way", layer="Http")
        unanswered = NotAnswered(f"nobody answered {request!r}", layer="Http")
        await self.refuse(unanswered)
        raise unanswered

    def _is_body_done(self) -> bool:
        return not isinstance(self.body, Incoming) or self.body.done

    async def _finish_body(self) -> bool:
        """Throw away what nobody read of the request's body; return whether the connection can go on."""
        body = self.body
        if not isinstance(body, Incoming):
            return True
        if self.continue_due or (body.length or 0) - body.received > self.heads.limits.max_unread:
            return False  # the client may or may not send it: only closing leaves no doubt
        unread = 0
        while data := await body.pull():
            unread += len(data)
            if unread > self.heads.limits.max_unread:
                return False
        return True

    # --- receiving -----------------------------------------------------------------------------

    async def receive(self) -> bytes:
        """Return what arrives, ``b""`` at the end; a broken connection cancels the exchange."""
        try:
            data = bytes(await self.stream.receive_some(_READ))
        except _GONE:
            self.over = True
            await self.lost()
        self.over = not data
        return data

    async def more(self, body: Incoming) -> None:
        """Receive more of a request's body, sending the 100 that the client may wait for."""
        if self.continue_due:
            self.continue_due = False
            await self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        limits = self.heads.limits
        before = self._clock()
        patience = limits.body_idle
        if limits.body_rate:
            patience = min(patience, limits.body_grace + body.received / limits.body_rate - self._waited)
        self.reading.deadline = before + max(patience, 0.0)
        data = await self.receive()
        self.reading.deadline = math.inf
        self._waited += self._clock() - before
        if not data:
            await self.lost()  # half a request is none: its exchange is cancelled
        self.buffer += data

    async def receive_tunnel(self) -> bytes:
        """Return the tunnel's next bytes from the client."""
        if self.buffer:
            data, self.buffer = self.buffer, b""
            return data
        self.watch_half_open(False)
        data = await self.receive()
        if not data:
            self.watch_half_open(True)
        return data

    async def malformed(self, error: BadRequest) -> NoReturn:
        """Give up because of a body that is none; the client is told if its answer has not begun."""
        self.refusal = error
        await self.lost()

    async def lost(self) -> NoReturn:
        """Cancel the exchange, for nobody is there to take its answer."""
        self.scope.cancel()
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    # --- sending -------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        """Send all of ``data``; a broken connection cancels the exchange."""
        view = data if len(data) <= _PIECE else memoryview(data)
        try:
            for start in range(0, len(data), _PIECE):
                rest = self._send_now(view[start : start + _PIECE])
                if rest is not None:
                    self.writing.deadline = self._clock() + self.heads.limits.write_stall
                    await rest
        except _GONE:
            await self.lost()
        finally:
            self.writing.deadline = math.inf

    async def send_eof(self) -> None:
        """Send the end of this side."""
        try:
            await self.stream.send_eof()
        except _GONE:
            await self.lost()

    def abort(self) -> None:
        """Reset the connection, so that what was sent can't be taken for the whole."""
        abort_nowait(self.stream)

    def begin_tunnel(self) -> None:
        """Leave HTTP: no deadline counts any more, and a hangup is for the tunnel to notice."""
        watch_hangup(self.stream, None)
        self.reading.deadline = math.inf

    def watch_half_open(self, half_open: bool) -> None:
        """Take note of a tunnel's progress, and of the end of one of its directions.

        From then on the other must not stand still for long: some peers never end it.
        """
        self._half_open = self._half_open or half_open
        if self._half_open:
            self.reading.deadline = trio.current_time() + self.heads.limits.tunnel_idle

    # --- ending --------------------------------------------------------------------------------

    async def refuse(self, error: Exception) -> None:
        """Answer with an empty response that ends the connection, if no answer has begun; reset it otherwise."""
        answer = self._answer
        if answer is not None and answer.begun:
            self.abort()
            return
        with trio.move_on_after(self.heads.limits.linger):
            try:
                await self.stream.send_all(refusal_head(*refusal_of(error)))
            except _GONE:
                return
        if answer is not None:
            answer.begun = answer.complete = True
            answer.keep_alive = False
        await self.linger()

    async def linger(self) -> None:
        """Say that no more comes, and take in what the client still sends, so that it can read its answer."""
        try:
            with trio.move_on_after(self.heads.limits.linger):
                await self.stream.send_eof()
                taken = 0
                while taken <= _LINGER_BYTES and (data := await self.stream.receive_some(_READ)):
                    taken += len(data)
        except _GONE:
            pass

    def on_drain(self) -> None:
        """End the connection if it waits for a request, and none is there; otherwise its next answer says close."""
        if self._idle and not has_unread(self.stream):
            self.scope.cancel()

    def on_read_timeout(self) -> None:
        """Give up a client that is too slow; one that is only idle is left without a word."""
        if self._half_open:
            self.abort()
        elif not self._idle:
            what = "request's head" if self._answer is None else "request's body"
            self.refusal = RequestTimeout(f"the {what} took too long", layer="Http")
        self.scope.cancel()

    def on_write_timeout(self) -> None:
        """Cut off a client that takes nothing of what is sent to it."""
        self.abort()
        self.refusal = IdleTimeout(
            "the client took nothing of the answer", layer="Http", waited=self.heads.limits.write_stall
        )
        self.scope.cancel()

    def __repr__(self) -> str:
        state = "idle" if self._idle else "serving" if self._answer is not None else "reading a head"
        return f"<ServerConnection {state}, {self._count} requests, from {self.connection.peer}>"
