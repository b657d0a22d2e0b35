"""Answering one HTTP/1 request: 1xx, then one final response, framed for the client's version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from linkerd_proxy.core.message import Body, Request, Response, Whole
from linkerd_proxy.errors import AlreadyAnswered, ProxyError, UpstreamClosed, UpstreamProtocolError
from linkerd_proxy.http.fields import Framing
from linkerd_proxy.http.h1.body import Incoming
from linkerd_proxy.http.h1.serialise import chunk, last_chunk, old_response_head, response_head
from linkerd_proxy.http.h1.tunnel import TunnelBody

if TYPE_CHECKING:
    from linkerd_proxy.http.h1.server import ServerConnection

__all__ = ["Answer"]

_CLOSE = (b"connection", b"close")
_CONNECTION = {
    # by version and whether the connection lives on
    ("1.1", True): b"\r\n",
    ("1.1", False): b"connection: close\r\n\r\n",
    ("1.0", True): b"connection: keep-alive\r\n\r\n",
    ("1.0", False): b"\r\n",
}
_MERGED = 65536  # larger bodies are not worth the copy that one system call costs


class Answer:
    """What one exchange's ``respond`` does on an HTTP/1 connection."""

    __slots__ = ("_framing", "_informed", "_old", "_request", "_server", "begun", "complete", "keep_alive")

    def __init__(self, server: ServerConnection, request: Request, framing: Framing, keep_alive: bool) -> None:
        self._server = server
        self._request = request
        self._framing = framing
        self._informed = 0
        self._old = request.version == "1.0"
        self.keep_alive: bool = keep_alive
        """Whether the connection may live on after this answer."""
        self.begun: bool = False
        """Whether the final response's head was sent, or tried to be."""
        self.complete: bool = False
        """Whether all of it was sent."""

    async def respond(self, response: Response) -> None:
        """Send the response; see :class:`~linkerd_proxy.core.work.Exchange`."""
        if self.begun:
            raise AlreadyAnswered(f"{response!r} comes after the final response", layer="Http")
        if not response.is_final:
            await self._inform(response)
            return
        server = self._server
        if server.connection.drain.draining:
            self.keep_alive = False
        if self._opens_tunnel(response):
            await self._tunnel(response)
            return
        body = response.body
        head, length, chunked = self._head(response)
        self.begun = True
        server.continue_due = False
        if isinstance(server.body, TunnelBody):
            server.body.refuse()
        try:
            if length == 0:
                await server.send(head)
            elif isinstance(body, Whole) and not chunked:
                data = body.data
                if len(data) <= _MERGED:
                    await server.send(head + data)
                else:
                    await server.send(head)
                    await server.send(data)
            else:
                await self._stream(head, body, length, chunked)
            self.complete = True
        finally:
            if not self.complete:
                server.abort()  # whatever cut it short, it must not look complete

    def _head(self, response: Response) -> tuple[bytes, int | None, bool]:
        """Return the head, how many bytes of content follow (None: as many as come), and whether in chunks."""
        if _CLOSE in response.headers.raw:
            response = self._without_close(response)
        body = response.body
        length, chunked = body.length, False
        status = response.status
        if self._request.method == "HEAD" or status == 304:
            declared = response.declared_length if response.declared_length is not None else (length or None)
            frame = b"" if declared is None else b"content-length: %d\r\n" % declared
            length = 0
        elif status == 204:
            frame, length = b"", 0
        elif length is not None and not (body.trailers and self._framing.wants_trailers):
            frame = b"content-length: %d\r\n" % length
        elif self._old:
            frame, length = b"", None
            self.keep_alive = False
        else:
            frame, chunked, length = b"transfer-encoding: chunked\r\n", True, None
        frame += _CONNECTION["1.0" if self._old else "1.1", self.keep_alive]
        return self._render(response, frame), length, chunked

    def _render(self, response: Response, frame: bytes) -> bytes:
        if not 100 <= response.status <= 599:
            raise UpstreamProtocolError(f"status {response.status} is not between 100 and 599", layer="Http")
        try:
            head = response_head(response, frame)
        except ProxyError as error:
            raise UpstreamProtocolError(error.problem, layer="Http") from None
        return old_response_head(head) if self._old else head

    def _without_close(self, response: Response) -> Response:
        """Take ``connection: close`` for what it says: the one hop-by-hop field that a layer may set."""
        self.keep_alive = False
        headers = response.headers.copy()
        headers.remove("connection")
        return response.replace(headers=headers)

    async def _stream(self, head: bytes, body: Body, length: int | None, chunked: bool) -> None:
        server = self._server
        pending = head
        if not (isinstance(body, Incoming) and body.ready):
            await server.send(head)
            pending = b""
        sent = 0
        while data := await body.pull():
            sent += len(data)
            if length is not None and sent > length:
                raise UpstreamProtocolError(f"the body is longer than the {length} bytes declared", layer="Http")
            if chunked:
                data = chunk(data)
            await server.send(pending + data if pending else data)
            pending = b""
        if length is not None and sent < length:
            raise UpstreamClosed(f"the body ended after {sent} of {length} bytes", layer="Http")
        if chunked:
            pending += last_chunk(body.trailers if self._framing.wants_trailers else None)
        if pending:
            await server.send(pending)

    async def _inform(self, response: Response) -> None:
        self._informed += 1
        if self._informed > self._server.heads.limits.max_informational:
            raise UpstreamProtocolError("more 1xx responses than Limits(max_informational=...) allows", layer="Http")
        if self._old:
            return  # RFC 9110 section 15.2: a client of HTTP/1.0 gets none
        if response.status == 100:
            self._server.continue_due = False
        await self._server.send(self._render(response, b"\r\n"))

    # --- tunnels ---

    def _opens_tunnel(self, response: Response) -> bool:
        if response.status == 101:
            if self._request.upgrade is None:
                raise UpstreamProtocolError("101 without a request for it", layer="Http")
            return True
        return self._request.method == "CONNECT" and response.status < 300

    async def _tunnel(self, response: Response) -> None:
        frame = b"\r\n"
        if response.status == 101:
            frame = b"connection: upgrade\r\nupgrade: %b\r\n\r\n" % str(self._request.upgrade).encode("latin-1")
        head = self._render(response, frame)
        self.begun = True
        self.keep_alive = False
        server = self._server
        tunnel = server.body
        assert isinstance(tunnel, TunnelBody)
        try:
            await server.send(head)
            server.begin_tunnel()
            tunnel.open()
            while True:
                server.watch_half_open(False)
                data = await response.body.pull()
                if not data:
                    break
                await server.send(data)
            await server.send_eof()
            server.watch_half_open(True)
            await tunnel.ended.wait()
            self.complete = True
        finally:
            if not self.complete:
                server.abort()
