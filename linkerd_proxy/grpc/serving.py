"""One call as its handler sees it."""

from __future__ import annotations

from typing import Generic, Self

import trio
from typing_extensions import TypeVar

from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.grpc.frames import ACCEPTED, Decoder, frame
from linkerd_proxy.grpc.metadata import Metadata, metadata_fields, read_metadata
from linkerd_proxy.grpc.method import Encodable, Method, decoder_of, encode
from linkerd_proxy.grpc.outgoing import Outgoing
from linkerd_proxy.grpc.status import GrpcError, status_fields
from linkerd_proxy.grpc_status import GrpcStatus
from linkerd_proxy.headers import Headers

__all__ = ["ServerCall"]

Req = TypeVar("Req", bound=Encodable | bytes)
Rep = TypeVar("Rep", bound=Encodable | bytes)


class ServerCall(Generic[Req, Rep]):
    """A call that a handler serves: its messages to iterate over, its replies to send, and its metadata.

    The handler's end is the call's end. It is cancelled when the client cancels, goes away, or its deadline passes.
    """

    __slots__ = ("_body", "_decode", "_decoder", "_head", "_headers", "_method", "_trailers", "begun", "connection",
                 "deadline", "outgoing")  # fmt: skip

    def __init__(self, method: Method[Req, Rep], exchange: Exchange, deadline: float, limit: int) -> None:
        request = exchange.request
        self.connection: Connection = exchange.connection
        """What the call came on: ``connection.tls.peer_identity`` is who asks."""
        self.deadline: float = deadline
        """When the client gives up, in Trio's time."""
        self.begun: trio.Event = trio.Event()
        """Set when the answer's head is to be sent."""
        self.outgoing: Outgoing = Outgoing()
        self._method = method
        self._headers = request.headers
        self._body = request.body
        self._decode = decoder_of(method.request)
        self._decoder = Decoder(limit, request.headers.get("grpc-encoding"))
        self._head: list[tuple[str, str]] = []
        self._trailers: list[tuple[str, str]] = []

    @property
    def path(self) -> str:
        """The method's path."""
        return self._method.path

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What the client sent along."""
        return read_metadata(self._headers)

    async def receive(self) -> Req:
        """Return the next message.

        Raises:
            trio.EndOfChannel: if the client sends no more.
            GrpcError: if what it sent is malformed or too large; not to be caught, for the client to see.

        Cancelled, it loses nothing.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while (message := self._decoder.next()) is None:
            chunk = await self._body.pull()
            if not chunk:
                if self._decoder.partial:
                    raise GrpcError(GrpcStatus.INTERNAL, "the request ended in the middle of a message")
                raise trio.EndOfChannel
            self._decoder.feed(chunk)
        try:
            return self._decode(message)
        except ValueError as error:  # protobuf's DecodeError is one
            raise GrpcError(GrpcStatus.INTERNAL, f"the message can't be decoded: {error}") from error

    async def receive_only(self) -> Req:
        """Return the one message of a call that has one. Raises ``GrpcError`` if there is none, or another."""
        try:
            message = await self.receive()
        except trio.EndOfChannel:
            raise GrpcError(GrpcStatus.INTERNAL, "the call has no message, but its kind asks for one") from None
        try:
            await self.receive()
        except trio.EndOfChannel:
            return message
        raise GrpcError(GrpcStatus.INTERNAL, "the call has more messages than the one that its kind asks for")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Req:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def set_metadata(self, metadata: Metadata) -> None:
        """Set the metadata that goes before the first reply. Raises RuntimeError if that was sent."""
        if self.begun.is_set():
            raise RuntimeError("the metadata was sent already: set it before the first reply")
        self._head = metadata_fields(metadata)

    def set_trailers(self, metadata: Metadata) -> None:
        """Set the metadata that goes with the status."""
        self._trailers = metadata_fields(metadata)

    def start(self) -> None:
        """Send the head with its metadata now, and not with the first reply."""
        self.begun.set()

    async def send(self, reply: Rep) -> None:
        """Send a reply. It waits while the one before is still here, so a client that reads slowly is not flooded.

        Cancelled, the reply was not sent.
        """
        self.begun.set()
        await self.outgoing.put(frame(encode(reply)))

    # --- for the server ---

    def head(self) -> list[tuple[str, str]]:
        """Return the fields of the answer's head."""
        return [("content-type", "application/grpc"), ("grpc-accept-encoding", ACCEPTED), *self._head]

    def tail(self, failure: GrpcError | None) -> list[tuple[str, str]]:
        """Return the fields that tell how the call ended."""
        if failure is None:
            return [*status_fields(GrpcStatus.OK), *self._trailers]
        return [*status_fields(failure.status, failure.message), *self._trailers, *metadata_fields(failure.trailers)]

    def finish(self, failure: GrpcError | None) -> None:
        """End the answer."""
        self.outgoing.end(Headers(self.tail(failure)))
        self.begun.set()

    def __repr__(self) -> str:
        return f"<ServerCall {self.path} from {self.connection.peer}>"
