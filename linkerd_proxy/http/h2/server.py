"""Serving one HTTP/2 connection: one reader, one task a stream."""

from __future__ import annotations

import trio

from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.message import Request
from linkerd_proxy.core.stack import Service
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.errors import BadRequest, IdleTimeout, RequestRefused
from linkerd_proxy.http.deadlines import Deadlines
from linkerd_proxy.http.h2.answer import ServerChannel
from linkerd_proxy.http.h2.codes import ErrorCode, code_name
from linkerd_proxy.http.h2.decoder import Block
from linkerd_proxy.http.h2.engine import Engine
from linkerd_proxy.http.h2.link import Link
from linkerd_proxy.http.h2.roles import LAST_STREAM, ServerEngine
from linkerd_proxy.http.h2.stream import Stream
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.validate import request_from_h2

__all__ = ["H2Server", "serve_h2"]


async def serve_h2(
    connection: Connection,
    inner: Service[Exchange],
    limits: Limits,
    deadlines: Deadlines,
    initial: bytes = b"",
) -> None:
    """Serve every stream of an HTTP/2 connection as an exchange, until the connection is over.

    A failed stream is reset or answered with an error, counted and logged; the others go on. A drain, an idle minute
    or ``Limits(h2_max_streams_total=...)`` ends the connection in good order: GOAWAY, the streams finish, close.

    Args:
        connection: Where the client is; its stream is left to the caller to close.
        inner: Serves the exchanges.
        limits: What the client may do.
        deadlines: Where deadlines are kept.
        initial: What was read of the connection already.

    Raises:
        BadRequest: if the client broke the protocol or crossed a flood limit; it was told by GOAWAY.

    Cancellation cancels every stream's exchange, without a word to the client.
    """
    await H2Server(connection, inner, limits, deadlines).run(initial)


class H2Server(Link):
    """One client's connection. See :func:`serve_h2`."""

    def __init__(self, connection: Connection, inner: Service[Exchange], limits: Limits, deadlines: Deadlines) -> None:
        super().__init__(limits, deadlines)
        self.connection = connection
        self.stream: trio.abc.HalfCloseableStream = connection.stream
        self.inner = inner
        self._role = ServerEngine(self, limits, trio.current_time)
        self.engine: Engine = self._role
        self._fresh: list[ServerChannel] = []
        self._streams: trio.Nursery | None = None
        self._idle = deadlines.add(self._on_idle)
        self._farewell = deadlines.add(self._last_call)
        self._draining = False

    async def run(self, initial: bytes) -> None:
        """Serve until the connection is over."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.write)
                async with trio.open_nursery() as self._streams:
                    with self.connection.drain.calling(self.drain, early=True):
                        self._idle.deadline = trio.current_time() + self.limits.keep_alive_idle
                        await self.read(initial)
                    self.say_goodbye()
                    self._streams.cancel_scope.cancel()
        except ExceptionGroup as group:  # only a bug raises here; the streams contain their own failures
            raise unwrapped(group) from group
        finally:
            for entry in (self._idle, self._farewell):
                self.deadlines.remove(entry)
            self.forget()
        if self.breach is None:
            await self.linger()
            return
        if self.breach.code == ErrorCode.NO_ERROR:
            raise IdleTimeout(self.breach.problem, layer="Http")
        await self.linger()
        raise BadRequest(
            f"{code_name(self.breach.code)}: {self.breach.problem}", layer="Http", remedy="look at the HTTP/2 client"
        )

    # --- the engine's sink ---

    def on_stream(self, stream: Stream, block: Block, ended: bool) -> None:
        """Make an exchange of a new stream. Its task starts when all that was read with it has been looked at."""
        try:
            if block.oversized:
                raise RequestRefused("more fields than Limits(max_head=..., max_fields=...) allow", 431, layer="Http")
            prototype = block.memo
            if not isinstance(prototype, Request):
                prototype = block.memo = request_from_h2(block.fields, self.limits)
        except BadRequest as error:
            channel = ServerChannel(self, stream, Request("GET", version="2"))
            channel.refuse(error)
            self._released(channel)
            self.engine.blame()
            return
        channel = ServerChannel(self, stream, prototype)
        if ended:
            channel.body.end(None)
        self._fresh.append(channel)

    def on_settings(self) -> None:
        """Nothing waits for the client's settings."""

    def on_goaway(self, last: int, code: int) -> None:
        """The client opens no more streams: finish those that there are, and close."""
        self._draining = True
        self._last_call()

    def on_pong(self, payload: bytes) -> None:
        """Name the last stream: what the client sent before it saw the first GOAWAY is here."""
        if payload == _FAREWELL:
            self._last_call()

    # --- streams ---

    def received(self) -> None:
        """Start the tasks of new streams, but for those that are gone again already."""
        if not self._fresh:
            return
        fresh, self._fresh = self._fresh, []
        streams = self._streams
        assert streams is not None
        self._idle.deadline = _NEVER
        for channel in fresh:
            if channel.stream.dead:
                self._released(channel)
            else:
                streams.start_soon(self._serve, channel)
        if self.engine.floods.streams >= self.limits.h2_max_streams_total:
            self.drain()

    async def _serve(self, channel: ServerChannel) -> None:
        try:
            with channel.scope:
                try:
                    await self.inner(Exchange(channel.request(), channel.respond, self.connection))
                    failure: Exception | None = channel.unanswered()
                except Exception as error:  # design rule 8: the connection's other streams go on
                    failure = unwrapped(error)
                if failure is not None:
                    channel.fail(failure)
                await channel.take_rest()
        finally:
            channel.close()
            self._released(channel)

    def _released(self, channel: ServerChannel) -> None:
        self._role.release(channel.stream)
        if not self._role.busy:
            if self._draining and self._role.accepts != LAST_STREAM:
                self.end()
            else:
                self._idle.deadline = trio.current_time() + self.limits.keep_alive_idle

    def busy(self) -> bool:
        """Whether there are streams."""
        return self._role.busy > 0

    def last_stream(self) -> int:
        """Return the last stream taken."""
        return min(self._role.last, self._role.accepts)

    # --- ending in good order (RFC 9113 section 6.8) ---

    def drain(self) -> None:
        """Warn the client that this connection ends, and after a round trip say which stream is the last."""
        if self._draining:
            return
        self._draining = True
        self.engine.goaway(LAST_STREAM, ErrorCode.NO_ERROR)
        self.engine.ping(_FAREWELL)
        self._farewell.deadline = trio.current_time() + self.limits.h2_goaway_delay

    def _last_call(self) -> None:
        if self._role.accepts != LAST_STREAM:
            return
        self._role.accepts = self._role.last
        self.engine.goaway(self._role.last, ErrorCode.NO_ERROR)
        if not self._role.busy:
            self.end()

    def _on_idle(self) -> None:
        if not self._role.busy:
            self._draining = True
            self._last_call()

    def __repr__(self) -> str:
        state = "draining" if self._draining else "ending" if self.ending else "open"
        return f"<H2Server {state}, {self._role.busy} streams busy, {self.engine.floods.streams} so far>"


_FAREWELL = b"l5d-last"
_NEVER = float("inf")
