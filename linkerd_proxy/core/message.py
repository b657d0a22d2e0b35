"""HTTP messages as every version of HTTP means them: a head, and a body that is pulled."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Literal, Self, TypeAlias

from linkerd_proxy.errors import PayloadTooLarge
from linkerd_proxy.headers import Headers

__all__ = ["EMPTY", "Body", "HttpVersion", "Request", "Response", "Streamed", "Whole"]

HttpVersion: TypeAlias = Literal["1.0", "1.1", "2", "3"]


class Body:
    """The content of a message, pulled chunk by chunk by whoever sends it on.

    Nothing is read from the peer before it is pulled, beyond one receive buffer (HTTP/1) or one flow-control
    window (HTTP/2). After CONNECT or an accepted upgrade, the two bodies of an exchange *are* the two
    directions of the tunnel.

    A subclass defines :meth:`pull`, and sets ``trailers`` before the end where there are any.
    """

    __slots__ = ("length", "trailers")

    length: int | None
    """The length in bytes that the head declared; None where only the end will tell."""
    trailers: Headers | None
    """The trailer fields, once the body has ended with some."""

    def __init__(self, length: int | None = None) -> None:
        self.length = length
        self.trailers = None

    async def pull(self) -> bytes:
        """Return the next chunk, or ``b""`` at the end and ever after.

        Raises:
            ProxyError: for a response body, if the upstream fails before its end. (A request body whose client
                fails cancels the exchange instead.)

        Cancellation loses no byte: a chunk not returned is returned by the next call.
        """
        raise NotImplementedError

    async def read(self, limit: int = 1 << 20) -> bytes:
        """Pull the whole body, of at most ``limit`` bytes.

        Raises:
            PayloadTooLarge: if there is more; what was pulled is lost.
        """
        chunks: list[bytes] = []
        size = 0
        while chunk := await self.pull():
            size += len(chunk)
            if size > limit:
                raise PayloadTooLarge(f"the body is larger than the {limit} bytes that read(limit=...) allows")
            chunks.append(chunk)
        return b"".join(chunks)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self.pull()
        if not chunk:
            raise StopAsyncIteration
        return chunk


class Whole(Body):
    """A body that is already in memory: what small messages and answers of our own use.

    Codecs look for this type to send head and body in one system call.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes = b"", trailers: Headers | None = None) -> None:
        self.length: int | None = len(data)
        self.trailers = trailers
        self.data: bytes = data

    async def pull(self) -> bytes:
        """Return all of it, then ``b""``."""
        data, self.data = self.data, b""
        return data

    def __repr__(self) -> str:
        return f"<Whole body of {self.length} bytes>"


class Streamed(Body):
    """A body that an async iterator makes, with ``trailers`` that may be set before the iterator ends.

    An async generator that raised, or was cancelled inside, is over and can't tell that from its end; so from then on
    :meth:`pull` raises RuntimeError: half a body must never pass for a whole one.

    Nobody pulls the rest of a body whose reader has gone. A generator that holds something belongs to whoever made it::

        async with aclosing(chunks()) as made:
            await exchange.respond(Response(200, body=Streamed(made)))
    """

    __slots__ = ("_chunks", "_fragile", "_lost")

    def __init__(self, chunks: AsyncIterator[bytes], length: int | None = None) -> None:
        super().__init__(length)
        self._chunks = chunks
        self._fragile = isinstance(chunks, AsyncGenerator)
        self._lost = False

    async def pull(self) -> bytes:
        """Return the iterator's next chunk that is not empty, or ``b""`` when it has ended."""
        if self._lost:
            raise RuntimeError("the generator of this body raised or was cancelled: the rest of the body is lost")
        self._lost = self._fragile
        async for chunk in self._chunks:
            if chunk:
                self._lost = False
                return chunk
        self._lost = False
        return b""


EMPTY = Whole()
"""The body of a message without content. Shared: it has no state to spoil."""


def _body(body: Body | bytes) -> Body:
    if isinstance(body, bytes):
        return Whole(body) if body else EMPTY
    return body


def _headers(headers: Headers | Iterable[tuple[str, str]]) -> Headers:
    return headers if isinstance(headers, Headers) else Headers(headers)


class Request:
    """What a client asked for.

    ``headers`` holds neither ``host`` nor framing nor hop-by-hop fields: those are the codecs' business, and the
    attributes say the same once. (RFC 9110 section 7, RFC 9113 section 8.3)

    Args:
        method: The method, in its own case (methods are case-sensitive).
        path: The origin-form target with its query, ``*`` for OPTIONS, and empty for CONNECT.
        headers: The end-to-end fields.
        body: The content; bytes for a whole one.
        authority: ``host[:port]``, from the target, ``:authority`` or ``Host``; empty if the client gave none.
        scheme: ``http`` or ``https``.
        version: The version in which the client spoke.
        upgrade: The protocol that the client wants to change to, in lower case (``websocket``), or None.
        absolute_form: Whether the client's HTTP/1 target was a whole URL, as to a forward proxy (RFC 9112 section
            3.2.2). What it said is in scheme, authority and path, which alone count.
    """

    __slots__ = ("absolute_form", "authority", "body", "headers", "method", "path", "scheme", "upgrade", "version")

    def __init__(
        self,
        method: str = "GET",
        path: str = "/",
        headers: Headers | Iterable[tuple[str, str]] = (),
        body: Body | bytes = EMPTY,
        *,
        authority: str = "",
        scheme: str = "http",
        version: HttpVersion = "1.1",
        upgrade: str | None = None,
        absolute_form: bool = False,
    ) -> None:
        self.method: str = method
        self.path: str = path
        self.headers: Headers = _headers(headers)
        self.body: Body = _body(body)
        self.authority: str = authority
        self.scheme: str = scheme
        self.version: HttpVersion = version
        self.upgrade: str | None = upgrade
        self.absolute_form: bool = absolute_form

    @property
    def is_grpc(self) -> bool:
        """Whether this is a gRPC call, by its content type and HTTP version."""
        return self.version == "2" and (self.headers.get("content-type") or "").startswith("application/grpc")

    @property
    def wants_tunnel(self) -> bool:
        """Whether a positive answer makes the bodies the two directions of a tunnel."""
        return self.upgrade is not None or self.method == "CONNECT"

    def replace(
        self,
        *,
        path: str | None = None,
        headers: Headers | None = None,
        body: Body | None = None,
        authority: str | None = None,
        absolute_form: bool | None = None,
    ) -> Request:
        """Return a copy with some parts changed; the others are shared."""
        return Request(
            self.method,
            self.path if path is None else path,
            self.headers if headers is None else headers,
            self.body if body is None else body,
            authority=self.authority if authority is None else authority,
            scheme=self.scheme,
            version=self.version,
            upgrade=self.upgrade,
            absolute_form=self.absolute_form if absolute_form is None else absolute_form,
        )

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.scheme}://{self.authority}{self.path} HTTP/{self.version}>"


class Response:
    """What is answered: informational (1xx) any number of times, then final once.

    Args:
        status: 100 to 599.
        headers: The end-to-end fields. ``content-length`` is not among them: ``body.length`` is it.
        body: The content; bytes for a whole one.
        version: The version in which the upstream spoke.

    For a HEAD request and for 304, ``body`` is empty and ``declared_length`` keeps the ``content-length`` that the
    content would have had.
    """

    __slots__ = ("body", "declared_length", "headers", "status", "version")

    def __init__(
        self,
        status: int = 200,
        headers: Headers | Iterable[tuple[str, str]] = (),
        body: Body | bytes = EMPTY,
        *,
        version: HttpVersion = "1.1",
        declared_length: int | None = None,
    ) -> None:
        self.status: int = status
        self.headers: Headers = _headers(headers)
        self.body: Body = _body(body)
        self.version: HttpVersion = version
        self.declared_length: int | None = declared_length

    @property
    def is_final(self) -> bool:
        """Whether this answers the exchange: any status from 200, and 101 (switching protocols)."""
        return self.status >= 200 or self.status == 101

    def replace(
        self, *, headers: Headers | None = None, body: Body | None = None, version: HttpVersion | None = None
    ) -> Response:
        """Return a copy with some parts changed; the others are shared."""
        return Response(
            self.status,
            self.headers if headers is None else headers,
            self.body if body is None else body,
            version=self.version if version is None else version,
            declared_length=self.declared_length,
        )

    def __repr__(self) -> str:
        return f"<Response {self.status} HTTP/{self.version}>"
