"""What a call brings back: replies that are pulled one by one from a service that runs in a task of its own."""

from __future__ import annotations

from typing import Generic, Self

import trio
from typing_extensions import TypeVar

from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.message import Response
from linkerd_proxy.core.stack import Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import AlreadyAnswered
from linkerd_proxy.grpc.frames import Decoder, frame
from linkerd_proxy.grpc.metadata import read_metadata
from linkerd_proxy.grpc.method import Encodable, Method, decoder_of, encode
from linkerd_proxy.grpc.outgoing import Outgoing
from linkerd_proxy.grpc.status import GrpcError, failure_of, final_status, refusal_of
from linkerd_proxy.grpc_status import GrpcStatus

__all__ = ["Call", "Replies"]

Req = TypeVar("Req", bound=Encodable | bytes)
Rep = TypeVar("Rep", bound=Encodable | bytes)


class Replies(Generic[Rep]):
    """The replies of a call, to be iterated over or received one by one.

    Made by a :class:`~linkerd_proxy.grpc.client.GrpcClient`.
    """

    __slots__ = (
        "_answered",
        "_arrived",
        "_decode",
        "_decoder",
        "_ended",
        "_failure",
        "_limit",
        "_path",
        "_response",
        "_returned",
        "_scope",
        "_wanted",
    )

    def __init__(self, path: str, kind: type[Rep], limit: int, deadline: float) -> None:
        self._path = path
        self._decode = decoder_of(kind)
        self._decoder = Decoder(limit)
        self._limit = limit
        self._scope = trio.CancelScope(deadline=deadline)
        self._response: Response | None = None
        self._answered = trio.Event()
        self._wanted = trio.Event()
        self._arrived = trio.Event()
        self._ended = False
        self._returned = trio.Event()
        self._failure: GrpcError | None = None

    # --- for whoever called ---

    async def receive(self) -> Rep:
        """Return the next reply.

        Raises:
            trio.EndOfChannel: if the call ended well and there is no other.
            GrpcError: if it failed.

        Cancelled, it loses nothing.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            if self._failure is not None:
                raise self._failure
            message = self._next()
            if message is not None:
                self._wanted.set()
                if not waited:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return message
            if self._ended:
                raise trio.EndOfChannel
            await self._arrived.wait()
            waited = True

    async def receive_only(self) -> Rep:
        """Return the one reply of a call that has one. Raises ``GrpcError``, also if there is none, or another."""
        try:
            reply = await self.receive()
        except trio.EndOfChannel:
            raise GrpcError(GrpcStatus.INTERNAL, "the call ended without the reply that its kind asks for") from None
        try:
            await self.receive()
        except trio.EndOfChannel:
            return reply
        raise GrpcError(GrpcStatus.INTERNAL, "the call has more replies than the one that its kind asks for")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Rep:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def wait_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Wait until the server has answered, and return the metadata that came first.

        Raises:
            GrpcError: if the call failed without an answer.
        """
        await self._answered.wait()
        if self._response is None:
            raise self._failure or GrpcError(GrpcStatus.INTERNAL, "no answer")
        return read_metadata(self._response.headers)

    @property
    def trailers(self) -> tuple[tuple[str, str | bytes], ...]:
        """The metadata that came last; empty before the end."""
        fields = self._response.body.trailers if self._response is not None and self._ended else None
        return read_metadata(fields) if fields is not None else ()

    # --- for the service ---

    async def run(self, service: Service[Exchange], exchange: Exchange) -> None:
        """Serve the exchange. What is a failure of the network's or the server's is kept for :meth:`receive`."""
        failure: Exception | None = None
        try:
            with self._scope:
                await service(exchange.answering(self.respond))
            if self._scope.cancelled_caught:
                failure = GrpcError(GrpcStatus.DEADLINE_EXCEEDED, "the call took longer than its timeout")
            elif not self._ended:
                failure = GrpcError(GrpcStatus.INTERNAL, "the service returned without a whole answer")
        except Exception as error:
            failure = failure_of(unwrapped(error))
            if not isinstance(failure, GrpcError):
                raise failure from None
        finally:
            # An answer that was whole is one, whatever happened behind it.
            if isinstance(failure, GrpcError) and not self._ended and self._failure is None:
                self._failure = failure
            self.on_over()
            self._returned.set()
            self._answered.set()
            self._arrived.set()

    def on_over(self) -> None:
        """Act on that the call is over."""

    async def respond(self, response: Response) -> None:
        """Take the answer: its head, then a chunk whenever a reply is wanted."""
        if not response.is_final:
            await trio.lowlevel.checkpoint()
            return
        if self._response is not None:
            raise AlreadyAnswered(f"{response!r} comes after {self._response!r}", layer="GrpcClient")
        self._response = response
        try:
            self._failure = refusal_of(response)
            self._decoder = Decoder(self._limit, response.headers.get("grpc-encoding"))
        except GrpcError as error:
            self._failure = error
        self._answered.set()
        if self._failure is not None:
            await self._give_up()
        body = response.body
        while not self._ended:
            # One reply is read ahead, so that the end of a call is noticed by those who only send, or wait.
            if self._decoder.ready:
                self._wanted = trio.Event()
                await self._wanted.wait()
                continue
            chunk = await body.pull()
            self._decoder.feed(chunk)
            if not chunk:
                self._end(response)
            arrived, self._arrived = self._arrived, trio.Event()
            arrived.set()

    # --- inside ---

    def _end(self, response: Response) -> None:
        self._ended = True
        self._failure = final_status(response)
        if self._failure is None and self._decoder.partial:
            self._failure = GrpcError(GrpcStatus.INTERNAL, "the answer ended in the middle of a reply")

    async def _give_up(self) -> None:
        self._scope.cancel()
        await trio.sleep_forever()

    def _next(self) -> Rep | None:
        try:
            message = self._decoder.next()
            return None if message is None else self._decoded(message)
        except GrpcError as error:
            self._failure = error
            self._scope.cancel()
            raise

    def _decoded(self, message: bytes) -> Rep:
        try:
            return self._decode(message)
        except ValueError as error:  # protobuf's DecodeError is one
            raise GrpcError(GrpcStatus.INTERNAL, f"a reply can't be decoded: {error}") from error

    async def finish(self) -> None:
        """Let a service that has brought all return; one that has not is about to be cancelled."""
        if self._ended:
            await self._returned.wait()

    def __repr__(self) -> str:
        if self._failure is not None:
            state = f"failed with {self._failure.status.name}"
        elif self._ended:
            state = "ended"
        else:
            state = "open" if self._response is None else "answered"
        return f"<{type(self).__name__} {self._path}, {state}>"


class Call(Replies[Rep], Generic[Req, Rep]):
    """A call in which both sides may send whenever they like.

    Made by :meth:`~linkerd_proxy.grpc.client.GrpcClient.bidi`.
    """

    __slots__ = ("_done", "_outgoing")

    def __init__(self, method: Method[Req, Rep], limit: int, deadline: float, outgoing: Outgoing) -> None:
        super().__init__(method.path, method.reply, limit, deadline)
        self._outgoing = outgoing
        self._done = False

    async def send(self, message: Req) -> None:
        """Send a message. It waits while the one before is still here, so a server that reads slowly is not flooded.

        Raises:
            GrpcError: if the call failed.
            trio.BrokenResourceError: if the server ended it well without asking for more.
            trio.ClosedResourceError: after :meth:`end`.

        Cancelled, the message was not sent.
        """
        try:
            await self._outgoing.put(frame(encode(message)))
        except trio.ClosedResourceError:
            if self._done:
                raise
            if self._failure is not None:
                raise self._failure from None
            raise trio.BrokenResourceError("the server has ended the call") from None

    def end(self) -> None:
        """Say that nothing more will be sent; replies may still come."""
        self._done = True
        self._outgoing.end()

    def on_over(self) -> None:
        """Let senders know."""
        self._outgoing.end()
