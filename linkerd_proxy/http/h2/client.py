"""Speaking HTTP/2 to an upstream: many exchanges on one connection."""

from __future__ import annotations

import trio

from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.message import Whole
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import BadGateway, ProxyError, UpstreamClosed, UpstreamProtocolError, UpstreamUnsent
from linkerd_proxy.http.deadlines import Deadlines
from linkerd_proxy.http.h2.asking import ClientChannel
from linkerd_proxy.http.h2.codes import ErrorCode, NotHttp2, code_name
from linkerd_proxy.http.h2.decoder import Block
from linkerd_proxy.http.h2.engine import Engine
from linkerd_proxy.http.h2.link import Link
from linkerd_proxy.http.h2.roles import LAST_STREAM, ClientEngine
from linkerd_proxy.http.h2.stream import Stream
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.no_http2 import SpeaksNoHttp2
from linkerd_proxy.http.validate import check_request

__all__ = ["H2Client"]

_ASSUMED_STREAMS = 100  # before SETTINGS came: RFC 9113 section 6.5.2 advises servers not to allow fewer


class H2Client(Link):
    """One connection to an upstream.

    Args:
        limits: What the upstream may do.
        deadlines: Where deadlines are kept.

    :meth:`run` drives it, inside ``Dial.use``; :meth:`exchange` may be called as soon as the client exists, and what it
    queues is sent with the first write.
    """

    def __init__(self, limits: Limits, deadlines: Deadlines) -> None:
        super().__init__(limits, deadlines)
        self._role = ClientEngine(self, limits, trio.current_time)
        self.engine: Engine = self._role
        self.closed: bool = False
        """Whether the connection is over."""
        self.retired: bool = False
        """Whether it takes no more exchanges: the upstream said GOAWAY, or we are done with it."""
        self.careful: bool = False
        """Whether to pull no body before the upstream has shown that it speaks HTTP/2, but for gRPC."""
        self._channels: dict[int, ClientChannel] = {}
        self._settings = trio.Event()
        self._said: str | None = None

    @property
    def open_streams(self) -> int:
        """How many exchanges are under way."""
        return len(self._channels)

    @property
    def available(self) -> bool:
        """Whether one more exchange may be begun."""
        if self.closed or self.retired:
            return False
        limit = self.engine.peer.max_streams
        if limit is None:
            limit = LAST_STREAM if self.engine.greeted else _ASSUMED_STREAMS
        return len(self._channels) < limit

    # --- the connection ---

    async def run(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Drive the connection until it is over: closed by the upstream, broken, or retired and without exchanges.

        Raises nothing of its own: what went wrong is raised by the exchanges. Cancellation ends the connection, and
        with it all exchanges that are under way.
        """
        self.stream = stream
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.write)
                await self.read()
                self.closed = True
                self.say_goodbye()
                self._fail_all()
        except ExceptionGroup as group:  # only a bug raises here
            raise unwrapped(group) from group
        finally:
            self.closed = self.ending = True
            self._fail_all()
            self.forget()

    def retire(self) -> None:
        """Take no more exchanges; :meth:`run` returns when those under way are done."""
        if not self.retired:
            self.retired = True
            self.engine.goaway(0, ErrorCode.NO_ERROR)  # the upstream never opened a stream
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self.retired and not self._channels and not self.ending:
            self.end()

    def _fail_all(self) -> None:
        for channel in list(self._channels.values()):
            channel.fail(self._loss(channel))

    def _loss(self, channel: ClientChannel) -> ProxyError:
        if channel.mark >= self.engine.outbox.taken:
            return UpstreamUnsent("the connection ended before the request was sent", layer="Client")
        if isinstance(self.breach, NotHttp2):
            return SpeaksNoHttp2(f"the upstream speaks no HTTP/2: {self.breach.problem}", layer="Client")
        if self.breach is not None and self.breach.code != ErrorCode.NO_ERROR:
            return UpstreamProtocolError(f"{code_name(self.breach.code)}: {self.breach.problem}", layer="Client")
        said = self._said or (self.breach.problem if self.breach is not None else "")
        return UpstreamClosed(f"the upstream closed the connection{f' ({said})' if said else ''}", layer="Client")

    def busy(self) -> bool:
        """Whether there are exchanges under way."""
        return bool(self._channels)

    def last_stream(self) -> int:
        """Return 0: upstreams open no streams."""
        return 0

    # --- the engine's sink ---

    def on_stream(self, stream: Stream, block: Block, ended: bool) -> None:
        """Upstreams open no streams: the engine refuses them."""

    def on_settings(self) -> None:
        """Let those go on who must know what the upstream can do."""
        self._settings.set()

    def on_goaway(self, last: int, code: int) -> None:
        """Finish the streams up to ``last``; the others were surely not processed."""
        self.retired = True
        if code != ErrorCode.NO_ERROR:
            self._said = f"GOAWAY {code_name(code)}"
        for number, channel in list(self._channels.items()):
            if number > last:
                self.engine.abandon(channel.stream)
                channel.fail(UpstreamUnsent(f"the upstream said GOAWAY after stream {last}", layer="Client"))
        self._end_if_idle()

    # --- exchanges ---

    async def exchange(self, exchange: Exchange) -> None:
        """Ask the upstream on a stream of its own, and answer the exchange with what it says.

        Raises:
            UpstreamUnsent: if the upstream surely did not process it: refused, above its GOAWAY, or never sent.
            UpstreamReset: if it reset the stream; ``http2_code`` says why.
            UpstreamClosed: if the connection ended before the response did.
            UpstreamProtocolError: if the response breaks the protocol.
            BadRequest: if the request can't be sent; nothing of it was.

        Cancellation resets the stream with CANCEL.
        """
        request = exchange.request
        check_request(request)
        if request.upgrade is not None:
            await self._wait_for_connect_protocol()
        if not self.available:
            raise UpstreamUnsent("the connection takes no more streams", layer="Client")
        channel = ClientChannel(self, self._role.open_stream(), request)
        if self.limits.h2_keep_alive_interval and not self._channels:
            self.expect_life()
        self._channels[channel.stream.id] = channel
        if self._role.next >= LAST_STREAM or self.engine.floods.streams >= self.limits.h2_client_streams_total:
            self.retired = True
        try:
            if channel.send_request():
                await self._both_ways(channel, exchange)
            else:
                await _answer(channel, exchange)
        finally:
            channel.close()
            del self._channels[channel.stream.id]
            self._end_if_idle()

    async def _wait_for_connect_protocol(self) -> None:
        with trio.move_on_after(self.limits.h2_preface_timeout):
            await self._settings.wait()
        if not self.engine.peer.connect_protocol:
            raise BadGateway("the upstream takes no WebSockets over HTTP/2 (RFC 8441)", layer="Client")

    async def _both_ways(self, channel: ClientChannel, exchange: Exchange) -> None:
        """Upload while the response comes. The upload ends with the response, except in a tunnel."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._upload, channel)
                await _answer(channel, exchange)
                if not (exchange.request.wants_tunnel and channel.tunnelling):
                    nursery.cancel_scope.cancel()
        except ExceptionGroup as group:
            raise unwrapped(group) from None

    async def _upload(self, channel: ClientChannel) -> None:
        request = channel.request
        if self.careful and not self.engine.greeted and not request.is_grpc:
            await self._settings.wait()  # if it never does, the exchange fails, and can be asked in HTTP/1
        if request.wants_tunnel:
            await channel.proceed.wait()  # no byte before the upstream has agreed (CVE-2025-64763)
            if not channel.tunnelling:
                return
        elif "expect" in request.headers:
            with trio.move_on_after(self.limits.expect_continue):
                await channel.proceed.wait()
            if channel.stream.dead or channel.stream.headed:
                return
        body = request.body
        if isinstance(body, Whole):  # not pulled, for it may have to be sent again
            await channel.send_whole(body)
        else:
            await channel.send_body(body, None if request.wants_tunnel else body.length)


async def _answer(channel: ClientChannel, exchange: Exchange) -> None:
    while True:
        response = await channel.head()
        await exchange.respond(response)
        if response.is_final:
            break
    if response.body is not channel.body:
        # Some servers end a response without content by an empty DATA frame: a reset instead would count against us.
        while await channel.body.pull():
            pass
