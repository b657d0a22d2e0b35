"""Ask gRPC services, over any HTTP service."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager, nullcontext, suppress

import trio
from typing_extensions import TypeVar

from linkerd_proxy._version import __version__
from linkerd_proxy.core.background import open_background
from linkerd_proxy.core.message import Body, Request, Whole
from linkerd_proxy.core.own import own_connection
from linkerd_proxy.core.stack import Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.grpc.frames import ACCEPTED, MAX_MESSAGE, frame
from linkerd_proxy.grpc.metadata import Metadata, encode_timeout, metadata_fields
from linkerd_proxy.grpc.method import Encodable, Method, encode
from linkerd_proxy.grpc.outgoing import Outgoing
from linkerd_proxy.grpc.replies import Call, Replies
from linkerd_proxy.grpc.status import GrpcError

__all__ = ["GrpcClient"]

Req = TypeVar("Req", bound=Encodable | bytes)
Rep = TypeVar("Rep", bound=Encodable | bytes)


class GrpcClient:
    """Calls methods over a service of exchanges: balancing, retries, TLS and metrics are layers like any other.

    ::

        async with opened(Client() | Connect("127.0.0.1:50051")) as service:
            reply = await GrpcClient(service).unary(SAY_HELLO, HelloRequest(name="you"))

    Args:
        service: What the calls go through.
        authority: Whom they are for, as HTTP's ``:authority``.
        scheme: ``http`` or ``https``.
        metadata: Sent with every call, before the call's own.
        max_message: Bytes that a reply may have, also after decompression.

    Every call takes ``timeout``, seconds for all of it, and ``metadata``. The server is told of the timeout, or of the
    deadline of a surrounding cancel scope if that is earlier.

    Calls raise :exc:`~linkerd_proxy.grpc.status.GrpcError` for any failure of the network or the server. Cancelling one
    resets its stream, and harms no other.
    """

    __slots__ = ("_connection", "_fields", "_max_message", "_service", "authority", "scheme")

    def __init__(
        self,
        service: Service[Exchange],
        *,
        authority: str = "localhost",
        scheme: str = "http",
        metadata: Metadata = (),
        max_message: int = MAX_MESSAGE,
    ) -> None:
        if max_message < 0:
            raise InvalidConfiguration(f"GrpcClient(max_message={max_message}): give a number of bytes")
        self.authority: str = authority
        self.scheme: str = scheme
        self._service = service
        self._connection = own_connection()
        self._max_message = max_message
        self._fields = metadata_fields(metadata)

    async def unary(
        self, method: Method[Req, Rep], message: Req, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> Rep:
        """Send one message and return the one reply."""
        async with self.server_stream(method, message, timeout=timeout, metadata=metadata) as replies:
            return await replies.receive_only()
        raise AssertionError

    @asynccontextmanager
    async def server_stream(
        self, method: Method[Req, Rep], message: Req, *, timeout: float | None = None, metadata: Metadata = ()
    ) -> AsyncIterator[Replies[Rep]]:
        """Send one message, and yield the replies. Leaving the block before their end cancels the call."""
        deadline = _deadline(timeout)
        replies = Replies(method.path, method.reply, self._max_message, deadline)
        exchange = self._exchange(method.path, Whole(frame(encode(message))), deadline, metadata)
        async with self._running(replies, exchange):
            yield replies

    async def client_stream(
        self,
        method: Method[Req, Rep],
        messages: AsyncIterable[Req] | Iterable[Req],
        *,
        timeout: float | None = None,
        metadata: Metadata = (),
    ) -> Rep:
        """Send messages, each when the server has room for it, and return the one reply.

        A server that ends the call before it has read all is right: the rest is not sent. An async generator is closed
        in any case.
        """
        async with self.bidi(method, timeout=timeout, metadata=metadata) as call, open_background() as nursery:
            nursery.start_soon(_send_all, call, messages)
            return await call.receive_only()
        raise AssertionError

    @asynccontextmanager
    async def bidi(
        self, method: Method[Req, Rep], *, timeout: float | None = None, metadata: Metadata = ()
    ) -> AsyncIterator[Call[Req, Rep]]:
        """Begin a call and yield it, to send and receive in any order. Leaving the block before its end cancels it."""
        deadline = _deadline(timeout)
        outgoing = Outgoing()
        call = Call(method, self._max_message, deadline, outgoing)
        async with self._running(call, self._exchange(method.path, outgoing, deadline, metadata)):
            yield call

    @asynccontextmanager
    async def _running(self, replies: Replies[Rep], exchange: Exchange) -> AsyncIterator[None]:
        async with open_background() as nursery:
            nursery.start_soon(replies.run, self._service, exchange)
            yield
            await replies.finish()

    def _exchange(self, path: str, body: Body, deadline: float, metadata: Metadata) -> Exchange:
        fields = [
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("user-agent", f"grpc-python-trio/{__version__}"),
            ("grpc-accept-encoding", ACCEPTED),
        ]
        if deadline < math.inf:
            fields.append(("grpc-timeout", encode_timeout(deadline - trio.current_time())))
        fields += self._fields
        fields += metadata_fields(metadata)
        request = Request("POST", path, fields, body, authority=self.authority, scheme=self.scheme, version="2")
        return Exchange(request, _unready, self._connection)

    def __repr__(self) -> str:
        return f"<GrpcClient of {self.scheme}://{self.authority}>"


async def _unready(response: object) -> None:
    raise AssertionError("each call answers for itself")


def _deadline(timeout: float | None) -> float:
    within = trio.current_effective_deadline()
    if timeout is None:
        return within
    if not timeout >= 0:
        raise InvalidConfiguration(f"timeout={timeout!r}: give seconds, or None for no limit")
    return min(within, trio.current_time() + timeout)


async def _send_all(call: Call[Req, Rep], messages: AsyncIterable[Req] | Iterable[Req]) -> None:
    # What ends the call is told to whoever receives.
    with suppress(GrpcError, trio.BrokenResourceError):
        if isinstance(messages, AsyncIterable):
            async with aclosing(messages) if isinstance(messages, AsyncGenerator) else nullcontext():
                async for message in messages:
                    await call.send(message)
        else:
            for message in messages:
                await call.send(message)
        call.end()
