"""One HTTP/1 connection to an upstream: one exchange at a time, and then, if nothing was odd, another."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import NoReturn

import trio

from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.clock import open_clock
from linkerd_proxy.core.message import EMPTY, Body, Request, Response, Whole
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import (
    BadRequest,
    IdleTimeout,
    ProxyError,
    UpstreamClosed,
    UpstreamProtocolError,
    UpstreamReset,
)
from linkerd_proxy.http.deadlines import Deadline, Deadlines
from linkerd_proxy.http.fields import Framing
from linkerd_proxy.http.h1.body import Incoming, make_body
from linkerd_proxy.http.h1.heads import Heads
from linkerd_proxy.http.h1.scan import find_end, plausible
from linkerd_proxy.http.h1.serialise import chunk, last_chunk, request_head
from linkerd_proxy.http.h1.tunnel import TunnelBody
from linkerd_proxy.io.streams import abort_nowait, send_now_of

__all__ = ["ClientConnection"]

_READ = 65536
_MERGED = 65536  # larger bodies are not worth the copy that one system call costs


class ClientConnection:
    """A connection to an upstream, made inside ``Dial.use``.

    Args:
        stream: Connected.
        heads: The codec and the limits.
        deadlines: Where the connection's deadlines are swept.
        endpoint: How errors name the upstream.
    """

    __slots__ = (
        "_clock",
        "_closed",
        "_continued",
        "_failure",
        "_send_now",
        "_uploaded",
        "begun",
        "buffer",
        "endpoint",
        "exchanges",
        "heads",
        "reading",
        "reusable",
        "stream",
        "writing",
    )

    def __init__(
        self, stream: trio.abc.HalfCloseableStream, heads: Heads, deadlines: Deadlines, endpoint: str = ""
    ) -> None:
        self.stream: trio.abc.HalfCloseableStream = stream
        self.heads: Heads = heads
        self.endpoint: str = endpoint
        self.buffer: bytes = b""
        self.exchanges: int = 0
        """How many exchanges it has begun."""
        self.begun: bool = False
        """Whether the upstream has sent a byte in answer to the current exchange."""
        self.reusable: bool = False
        """Whether the last exchange left it in a state to go on."""
        self.reading: Deadline = deadlines.add(self._on_read_timeout)
        self.writing: Deadline = deadlines.add(self._on_write_timeout)
        self._failure: ProxyError | None = None
        self._clock = open_clock()
        self._send_now = send_now_of(stream)
        self._closed = trio.Event()
        self._continued = trio.Event()
        self._uploaded = False

    # --- life ----------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it was given up."""
        return self._closed.is_set()

    def close(self, *, abort: bool) -> None:
        """Give it up: with a reset, if the upstream must not take what it got for the whole."""
        if abort:
            abort_nowait(self.stream)
        self._closed.set()

    async def wait_closed(self) -> None:
        """Wait until it was given up: what ``Dial.use`` does with it."""
        await self._closed.wait()

    def is_quiet(self) -> bool:
        """Whether an unused connection is still open, and the upstream has said nothing that nobody asked for.

        Unasked bytes would be taken for the next exchange's answer.
        """
        if self.closed or self.buffer:
            return False
        is_quiet: Callable[[], bool] | None = getattr(self.stream, "is_quiet", None)
        return is_quiet is None or is_quiet()

    # --- an exchange ---------------------------------------------------------------------------

    async def exchange(self, exchange: Exchange, *, keep_alive: bool = True) -> None:
        """Send the request, answer with the response, and return when both are done.

        Raises:
            BadRequest: for a request that can't be sent; nothing of it was.
            UpstreamClosed, UpstreamReset: if the connection ended too early; ``begun`` tells whether anything came.
            UpstreamProtocolError: for an answer that is none.
            IdleTimeout: if the upstream did nothing for too long.

        Cancelled, it leaves the connection unusable: close it with ``abort``.
        """
        request = exchange.request
        head, chunked = request_head(request, keep_alive=keep_alive)
        self.exchanges += 1
        self.begun = False
        self.reusable = keep_alive
        body = request.body
        if request.wants_tunnel:
            await self._send(head)
            await self._answer(exchange)
        elif isinstance(body, Whole) and not chunked:
            data = body.data
            if len(data) > _MERGED:
                await self._send(head)
                await self._send(data)
            else:
                await self._send(head + data if data else head)
            await self._answer(exchange)
        else:
            await self._send(head)
            await self._exchange_streaming(exchange, chunked)

    async def _exchange_streaming(self, exchange: Exchange, chunked: bool) -> None:
        """Upload while the answer comes: the only exchanges that need a task of their own."""
        self._uploaded = False
        self._continued = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._upload, exchange.request, chunked)
                await self._answer(exchange)
                if not self._uploaded:
                    self.reusable = False  # answered early: the rest of the request is not wanted
                nursery.cancel_scope.cancel()
        except ExceptionGroup as group:
            raise unwrapped(group) from None

    async def _upload(self, request: Request, chunked: bool) -> None:
        body = request.body
        if (b"expect", b"100-continue") in request.headers.raw:
            with trio.move_on_after(self.heads.limits.expect_continue):
                await self._continued.wait()
        sent = 0
        try:
            while data := await body.pull():
                sent += len(data)
                if body.length is not None and sent > body.length:
                    raise BadRequest(f"the request's body is longer than the {body.length} bytes declared")
                await self._write(chunk(data) if chunked else data)
            if body.length is not None and sent < body.length:
                raise BadRequest(f"the request's body ended after {sent} of {body.length} bytes")
            if chunked:
                await self._write(last_chunk(body.trailers))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.reusable = False  # the upstream may have answered before it stopped reading: that is looked for
            return
        self._uploaded = True

    async def _write(self, data: bytes) -> None:
        rest = self._send_now(data)
        if rest is not None:
            await self._patiently(rest)

    async def _send(self, data: bytes) -> None:
        try:
            rest = self._send_now(data)
            if rest is not None:
                await self._patiently(rest)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._why(error) from error

    async def _patiently(self, rest: Awaitable[None]) -> None:
        """Wait until the upstream has taken the rest, with a deadline."""
        self.writing.deadline = self._clock() + self.heads.limits.write_stall
        try:
            await rest
        finally:
            self.writing.deadline = math.inf

    # --- the answer ----------------------------------------------------------------------------

    async def _answer(self, exchange: Exchange) -> None:
        request = exchange.request
        informed = seen = 0
        while True:
            read = self._read_head(request.method, seen)
            if read is None:
                seen = len(self.buffer)
                data = await self._receive()
                if not data:
                    raise self._closed_early()
                self.begun = True
                self.buffer = self.buffer + data if seen else data
                continue
            response, framing = read
            if response.is_final:
                break
            seen = 0
            informed += 1
            if informed > self.heads.limits.max_informational:
                raise self._malformed("more 1xx responses than Limits(max_informational=...) allows")
            if response.status == 100:
                self._continued.set()
            await exchange.respond(response)
        if response.status == 101 or (request.method == "CONNECT" and response.status < 300):
            await self._tunnel(exchange, response)
            return
        body = self._take_body(response, framing)
        await exchange.respond(response)
        if not framing.keep_alive or self.buffer or (body is not None and not body.done):
            self.reusable = False  # whatever is left over would be taken for the next answer

    def _read_head(self, method: str, seen: int) -> tuple[Response, Framing] | None:
        """Take a head out of the buffer, of which ``seen`` bytes held none; None if it is not whole."""
        buffer = self.buffer
        if not buffer:
            return None
        end = find_end(buffer, max(0, seen - 3))
        if end > 0:
            self.buffer = buffer[end:]
            return self.heads.response(buffer[:end], method)
        try:
            plausible(buffer, seen)
        except BadRequest as error:
            raise self._malformed(error.problem) from None
        if len(buffer) > self.heads.limits.max_head:
            raise self._malformed("the upstream's head is larger than Limits(max_head=...) allows")
        return None

    def _closed_early(self) -> UpstreamClosed:
        problem = "the upstream closed the connection before its answer"
        return UpstreamClosed(problem, layer="Client", endpoint=self.endpoint)

    def _take_body(self, response: Response, framing: Framing) -> Incoming | None:
        """Put the response's body in place, whole if it is here already."""
        length = framing.length
        if response.body is EMPTY or length == 0:
            return None
        buffer = self.buffer
        if length is not None and length <= len(buffer):
            response.body = Whole(buffer[:length])
            self.buffer = buffer[length:]
            return None
        response.body = body = make_body(self, framing, self.heads.limits)
        return body

    async def _receive(self) -> bytes:
        self.reading.deadline = self._clock() + self.heads.limits.upstream_idle
        try:
            data = await self.stream.receive_some(_READ)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._why(error) from error
        finally:
            self.reading.deadline = math.inf
        return bytes(data)

    async def more(self, body: Incoming) -> None:
        """Receive more of a response's body."""
        data = await self._receive()
        if data:
            self.buffer += data
        elif not body.cut():
            raise UpstreamClosed(
                f"the upstream closed the connection after {body.received} bytes of a body",
                layer="Client",
                endpoint=self.endpoint,
            )

    async def malformed(self, error: BadRequest) -> NoReturn:
        """Refuse a response's body that is none."""
        raise self._malformed(error.problem)

    def _malformed(self, problem: str) -> UpstreamProtocolError:
        self.reusable = False
        return UpstreamProtocolError(problem, layer="Client", endpoint=self.endpoint)

    # --- tunnels -------------------------------------------------------------------------------

    async def _tunnel(self, exchange: Exchange, response: Response) -> None:
        self.reusable = False
        if response.status == 101 and exchange.request.upgrade is None:
            raise self._malformed("the upstream switches protocols unasked")
        response.body = tunnel = TunnelBody(self._receive_tunnel)
        tunnel.open()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pour, exchange.request.body)
                await exchange.respond(response)
                nursery.cancel_scope.cancel()
        except ExceptionGroup as group:
            raise unwrapped(group) from None

    async def _receive_tunnel(self) -> bytes:
        if self.buffer:
            data, self.buffer = self.buffer, b""
            return data
        try:
            return bytes(await self.stream.receive_some(_READ))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._why(error) from error

    async def _pour(self, body: Body) -> None:
        """Send the client's direction of a tunnel, and its end."""
        while data := await body.pull():
            await self._send(data)
        try:
            await self.stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._why(error) from error

    # --- deadlines -----------------------------------------------------------------------------

    def _why(self, error: Exception) -> ProxyError:
        if self._failure is not None:
            return self._failure
        return UpstreamReset(f"the upstream connection broke: {error}", layer="Client", endpoint=self.endpoint)

    def _on_read_timeout(self) -> None:
        self._give_up("sent nothing", self.heads.limits.upstream_idle)

    def _on_write_timeout(self) -> None:
        self._give_up("took nothing", self.heads.limits.write_stall)

    def _give_up(self, what: str, waited: float) -> None:
        self._failure = IdleTimeout(f"the upstream {what}", layer="Client", endpoint=self.endpoint, waited=waited)
        self.close(abort=True)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "reusable" if self.reusable else "in use"
        return f"<ClientConnection {state}, {self.exchanges} exchanges>"
