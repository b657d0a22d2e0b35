"""Serve gRPC: a leaf made of handlers by method."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import trio
from typing_extensions import TypeVar

from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.contain import record_failure
from linkerd_proxy.core.message import Response, Whole
from linkerd_proxy.core.stack import Service, Stack
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration, ProxyError
from linkerd_proxy.grpc.frames import MAX_MESSAGE, frame
from linkerd_proxy.grpc.metadata import read_timeout
from linkerd_proxy.grpc.method import Encodable, Method, encode
from linkerd_proxy.grpc.serving import ServerCall
from linkerd_proxy.grpc.status import GrpcError, status_fields, status_of
from linkerd_proxy.grpc_status import GrpcStatus
from linkerd_proxy.headers import Headers

__all__ = ["Grpc", "Rpc", "bidi", "client_stream", "server_stream", "unary"]

Req = TypeVar("Req", bound=Encodable | bytes)
Rep = TypeVar("Rep", bound=Encodable | bytes)

_Serve: TypeAlias = Callable[[Exchange, float, int], Awaitable[None]]


@dataclass(frozen=True, slots=True, repr=False)
class Rpc:
    """A method with its handler. Made by :func:`unary`, :func:`server_stream`, :func:`client_stream`, :func:`bidi`."""

    path: str
    kind: str
    handler: str
    serve: _Serve

    def __repr__(self) -> str:
        return f"{self.kind}({self.path!r}, {self.handler})"


def unary(method: Method[Req, Rep], handler: Callable[[Req, ServerCall[Req, Rep]], Awaitable[Rep]]) -> Rpc:
    """Serve a method whose calls have one message and one reply: ``async def f(message, call) -> reply``."""

    async def handle(call: ServerCall[Req, Rep]) -> Rep:
        return await handler(await call.receive_only(), call)

    return Rpc(method.path, "unary", _name(handler), _replying(method, handle))


def client_stream(method: Method[Req, Rep], handler: Callable[[ServerCall[Req, Rep]], Awaitable[Rep]]) -> Rpc:
    """Serve a method whose calls have any number of messages and one reply: ``async def f(call) -> reply``."""
    return Rpc(method.path, "client_stream", _name(handler), _replying(method, handler))


def server_stream(method: Method[Req, Rep], handler: Callable[[Req, ServerCall[Req, Rep]], Awaitable[None]]) -> Rpc:
    """Serve a method whose calls have one message and any number of replies, which ``call.send`` sends."""

    async def handle(call: ServerCall[Req, Rep]) -> None:
        await handler(await call.receive_only(), call)

    return Rpc(method.path, "server_stream", _name(handler), _streaming(method, handle))


def bidi(method: Method[Req, Rep], handler: Callable[[ServerCall[Req, Rep]], Awaitable[None]]) -> Rpc:
    """Serve a method whose calls have any number of messages and replies, in any order."""
    return Rpc(method.path, "bidi", _name(handler), _streaming(method, handler))


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Grpc(Stack[Exchange]):
    """Answers gRPC calls with handlers.

    ::

        server = Http() | Rescue() | Grpc(unary(SAY_HELLO, say_hello), bidi(CHAT, chat))

    A handler raises :exc:`~linkerd_proxy.grpc.status.GrpcError` to end its call with a status. A
    :exc:`~linkerd_proxy.errors.ProxyError` becomes its gRPC status; anything else is counted, logged, and becomes
    ``UNKNOWN`` without its text. A method that has no handler is ``UNIMPLEMENTED``, a request that is no gRPC gets 415.
    ``grpc-timeout`` is held to: when it passes, the handler is cancelled and the status is ``DEADLINE_EXCEEDED``.

    Args:
        rpcs: The methods with their handlers.
        max_message: Bytes that a request's message may have, also after decompression.
    """

    rpcs: tuple[Rpc, ...]
    max_message: int

    def __init__(self, *rpcs: Rpc, max_message: int = MAX_MESSAGE) -> None:
        paths = [rpc.path for rpc in rpcs]
        twice = next((path for path in paths if paths.count(path) > 1), None)
        if twice is not None:
            raise InvalidConfiguration(f"Grpc: {twice} has two handlers: leave one")
        if max_message < 0:
            raise InvalidConfiguration(f"Grpc(max_message={max_message}): give a number of bytes")
        object.__setattr__(self, "rpcs", rpcs)
        object.__setattr__(self, "max_message", max_message)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Exchange]]:
        """Yield the live service."""
        rpcs = {rpc.path: rpc for rpc in self.rpcs}
        limit = self.max_message

        async def service(exchange: Exchange) -> None:
            request = exchange.request
            kind = request.headers.get("content-type") or ""
            if request.method != "POST" or not _is_grpc(kind):
                await exchange.respond(Response(405 if request.method != "POST" else 415))
                return
            rpc = rpcs.get(request.path)
            try:
                if rpc is None:
                    raise GrpcError(GrpcStatus.UNIMPLEMENTED, f"there is no method {request.path[:200]}")
                await rpc.serve(exchange, _deadline(request.headers), limit)
            except GrpcError as error:
                await exchange.respond(_trailers_only(status_fields(error.status, error.message)))

        yield service

    def __repr__(self) -> str:
        parts = [repr(rpc) for rpc in self.rpcs]
        if self.max_message != MAX_MESSAGE:
            parts.append(f"max_message={self.max_message}")
        return f"Grpc({', '.join(parts)})"


def _is_grpc(kind: str) -> bool:
    return kind == "application/grpc" or kind.startswith(("application/grpc+", "application/grpc;"))


def _deadline(headers: Headers) -> float:
    text = headers.get("grpc-timeout")
    if text is None:
        return math.inf
    try:
        return trio.current_time() + read_timeout(text)
    except ValueError as error:
        raise GrpcError(GrpcStatus.INTERNAL, str(error)) from None


def _trailers_only(fields: list[tuple[str, str]]) -> Response:
    return Response(200, [("content-type", "application/grpc"), *fields])


def _name(handler: object) -> str:
    return getattr(handler, "__name__", repr(handler))


# --- calls -------------------------------------------------------------------------------------


def _replying(method: Method[Req, Rep], handle: Callable[[ServerCall[Req, Rep]], Awaitable[Rep]]) -> _Serve:
    """Serve calls with one reply in the exchange's own task: head, reply and status leave together."""

    async def serve(exchange: Exchange, deadline: float, limit: int) -> None:
        call = ServerCall(method, exchange, deadline, limit)
        reply: bytes | None = None

        async def run() -> None:
            nonlocal reply
            reply = frame(encode(await handle(call)))

        failure = await _outcome(call, run)
        if failure is not None or reply is None:
            await exchange.respond(Response(200, call.head() + call.tail(failure)))
        else:
            await exchange.respond(Response(200, call.head(), Whole(reply, Headers(call.tail(None)))))

    return serve


def _streaming(method: Method[Req, Rep], handle: Callable[[ServerCall[Req, Rep]], Awaitable[None]]) -> _Serve:
    """Serve calls with many replies: the handler in a task of its own fills the body that the codec pulls."""

    async def serve(exchange: Exchange, deadline: float, limit: int) -> None:
        call = ServerCall(method, exchange, deadline, limit)

        async def run() -> None:
            call.finish(await _outcome(call, lambda: handle(call)))

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await call.begun.wait()
                outgoing = call.outgoing
                if outgoing.ended and outgoing.drained and outgoing.trailers is not None:
                    await exchange.respond(Response(200, call.head() + list(outgoing.trailers)))
                else:
                    await exchange.respond(Response(200, call.head(), outgoing))
                nursery.cancel_scope.cancel()
        except ExceptionGroup as group:
            raise unwrapped(group) from None

    return serve


async def _outcome(call: ServerCall[Req, Rep], run: Callable[[], Awaitable[None]]) -> GrpcError | None:
    """Run a handler until its end or its client's deadline, and return how it failed, or None."""
    try:
        with trio.CancelScope(deadline=call.deadline) as scope:
            await run()
    except GrpcError as error:
        return error
    except Exception as error:
        return _explained(unwrapped(error), call)
    if scope.cancelled_caught:
        return GrpcError(GrpcStatus.DEADLINE_EXCEEDED, "the handler took longer than the client's timeout")
    return None


def _explained(error: Exception, call: ServerCall[Req, Rep]) -> GrpcError:
    if isinstance(error, GrpcError):
        return error
    record_failure(error, call.connection)
    if isinstance(error, ProxyError):
        return GrpcError(status_of(error) or GrpcStatus.UNKNOWN, str(error))
    # The text of an unexpected exception may hold anything: it goes to the log and not to the client.
    return GrpcError(GrpcStatus.UNKNOWN, "the handler failed; look into the server's log")
