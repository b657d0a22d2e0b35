"""``call``: an HTTP service turned inside out, for tests and scripts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from linkerd_proxy.core.message import Body, Request, Response
from linkerd_proxy.core.passing import Passing
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.errors import AlreadyAnswered, NotAnswered
from linkerd_proxy.testing.memory import memory_connection
from linkerd_proxy.testing.ungroup import open_plain_nursery

__all__ = ["Answer", "call"]


class Answer(Response):
    """The final response of a :func:`call`, with the informational ones that came before it."""

    __slots__ = ("informational",)

    def __init__(self, response: Response, body: Body, informational: list[Response]) -> None:
        super().__init__(
            response.status,
            response.headers,
            body,
            version=response.version,
            declared_length=response.declared_length,
        )
        self.informational: list[Response] = informational
        """The 1xx responses, in order."""


@asynccontextmanager
async def call(
    service: Service[Exchange] | Stack[Exchange], request: Request, *, connection: Connection | None = None
) -> AsyncIterator[Answer]:
    """Ask an HTTP service, and yield its response, whose body can be pulled inside the block.

    Args:
        service: A live service, or a stack that is opened for this one call.
        request: What to ask.
        connection: What the exchange came on; a memory connection if None.

    Raises:
        NotAnswered: if the service returns without a final response.

    What the service raises comes out as it is, in no group: from the ``pull`` that waits for the body, or else from the
    ``async with`` after the block was cancelled. Leaving the block before the body's end cancels the service, as a
    client does that goes away; leaving it after that waits for the service to return.
    """
    if isinstance(service, Stack):
        async with opened(service) as live, call(live, request, connection=connection) as answer:
            yield answer
        return
    if connection is None:
        _, connection = memory_connection()
    exchange = _Call(request)
    async with open_plain_nursery() as nursery:
        nursery.start_soon(exchange.run, service, connection)
        if (answered := await exchange.wait_answered()) is not None:
            exchange.block = trio.CancelScope()
            with exchange.block:
                yield answered
            if not exchange.ended:
                nursery.cancel_scope.cancel()
    if exchange.error is not None:
        raise exchange.error


class _Call:
    """One call: the service runs in a task of its own, and its ``respond`` hands chunks to whoever pulls."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.answer: Answer | None = None
        self.informational: list[Response] = []
        self.block: trio.CancelScope | None = None
        self.error: Exception | None = None
        self.ended = False
        """Whether the whole body was pulled."""
        self.returned = False
        self._answered = trio.Event()
        self._request_ended = trio.Event()
        self._wanted = trio.Event()
        self._arrived = trio.Event()
        self._chunk: bytes | None = None
        self._pulling = False

    async def run(self, service: Service[Exchange], connection: Connection) -> None:
        request = self.request
        if request.wants_tunnel:
            request = request.replace(body=_Watched(request.body, self._request_ended))
        try:
            await service(Exchange(request, self.respond, connection))
            if self.answer is None:
                raise NotAnswered("the service returned without an answer", layer="call")
        except Exception as error:
            self.error = error
            if self.block is not None and not self._pulling:
                self.block.cancel()
        finally:
            self.returned = True
            self._answered.set()
            self._arrived.set()

    async def respond(self, response: Response) -> None:
        if self.answer is not None:
            raise AlreadyAnswered(f"{response!r} comes after {self.answer!r}", layer="call")
        if not response.is_final:
            self.informational.append(response)
            await trio.lowlevel.checkpoint()
            return
        body = response.body
        self.answer = Answer(response, _Handed(self, body), self.informational)
        self._answered.set()
        # The pulling happens in the service's task, so that its deadlines and its cancellation reach it.
        while not self.ended:
            await self._wanted.wait()
            chunk = await body.pull()
            self.answer.body.trailers = body.trailers
            self._wanted = trio.Event()
            self.ended = not chunk
            self._chunk = chunk
            self._arrived.set()
        if self.request.wants_tunnel and (response.status == 101 or 200 <= response.status < 300):
            await self._request_ended.wait()

    async def wait_answered(self) -> Answer | None:
        await self._answered.wait()
        return self.answer if self.error is None else None

    async def pull(self) -> bytes:
        if self.ended and self._chunk is None:
            await trio.lowlevel.checkpoint()
            return b""
        if self._chunk is None:  # or else a cancelled pull has left one here
            self._wanted.set()
        self._pulling = True
        try:
            await self._arrived.wait()
        finally:
            self._pulling = False
        if self._chunk is None:
            return self._failed()
        chunk, self._chunk = self._chunk, None
        if not self.returned:
            self._arrived = trio.Event()
        return chunk

    def _failed(self) -> bytes:
        error, self.error = self.error, None
        if error is not None:
            raise error
        raise NotAnswered("the service returned before its body had ended: respond() was cancelled", layer="call")


class _Handed(Body):
    """The response's body as the caller pulls it."""

    __slots__ = ("_call",)

    def __init__(self, call: _Call, body: Body) -> None:
        super().__init__(body.length)
        self.trailers = body.trailers
        self._call = call

    async def pull(self) -> bytes:
        """Return the next chunk, or raise what the service raised."""
        return await self._call.pull()

    def __repr__(self) -> str:
        return f"<body of a call, {'ended' if self._call.ended else 'open'}>"


class _Watched(Passing):
    """A request body that tells when it has ended: one of the two directions of a tunnel."""

    __slots__ = ("_ended",)

    def __init__(self, body: Body, ended: trio.Event) -> None:
        super().__init__(body)
        self._ended = ended

    def passed(self, chunk: bytes) -> None:
        """Look for the end."""
        if not chunk:
            self._ended.set()
