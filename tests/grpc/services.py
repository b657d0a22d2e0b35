"""A service of every kind of call, with bytes for messages, and a client in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from linkerd_proxy import Client, Connect, Http, Stack, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.grpc import (
    Grpc,
    GrpcClient,
    GrpcError,
    GrpcStatus,
    Method,
    ServerCall,
    bidi,
    client_stream,
    server_stream,
    unary,
)
from linkerd_proxy.testing import MemoryConnect, MemoryListener, serving

ECHO = Method("/flow.Test/Echo", bytes, bytes)
FAIL = Method("/flow.Test/Fail", bytes, bytes)
HANG = Method("/flow.Test/Hang", bytes, bytes)
COUNT = Method("/flow.Test/Count", bytes, bytes)
COUNT_THEN_FAIL = Method("/flow.Test/CountThenFail", bytes, bytes)
SUM = Method("/flow.Test/Sum", bytes, bytes)
CHAT = Method("/flow.Test/Chat", bytes, bytes)
FLOOD = Method("/flow.Test/Flood", bytes, bytes)
IDLE = Method("/flow.Test/Idle", bytes, bytes)

PIECE = 1 << 16
Call = ServerCall[bytes, bytes]


class Service:
    """Handlers, and what they have seen."""

    def __init__(self) -> None:
        self.started = trio.Event()
        self.cancelled = trio.Event()
        self.sent = 0
        self.received = 0
        self.deadline = 0.0

    def stack(self, **settings: int) -> Grpc:
        return Grpc(
            unary(ECHO, self.echo),
            unary(FAIL, self.fail),
            unary(HANG, self.hang),
            server_stream(COUNT, self.count),
            server_stream(COUNT_THEN_FAIL, self.count_then_fail),
            client_stream(SUM, self.sum),
            bidi(CHAT, self.chat),
            server_stream(FLOOD, self.flood),
            bidi(IDLE, self.idle),
            **settings,
        )

    async def echo(self, message: bytes, call: Call) -> bytes:
        call.set_metadata([pair for pair in call.metadata if pair[0].startswith("x-")])
        call.set_trailers([("x-trailing", "yes"), ("x-data-bin", b"\x00\xfe")])
        return message

    async def fail(self, message: bytes, call: Call) -> bytes:
        raise GrpcError(GrpcStatus(message[0]), "détails: 100% wörtlich\n", [("x-why", "asked")])

    async def hang(self, message: bytes, call: Call) -> bytes:
        self.deadline = call.deadline
        self.started.set()
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled.set()

    async def count(self, message: bytes, call: Call) -> None:
        for number in range(int(message)):
            await call.send(b"%d" % number)

    async def count_then_fail(self, message: bytes, call: Call) -> None:
        await self.count(message, call)
        raise GrpcError(GrpcStatus.DATA_LOSS, "lost")

    async def sum(self, call: Call) -> bytes:
        return b"%d" % sum([int(message) async for message in call])

    async def chat(self, call: Call) -> None:
        async for message in call:
            await call.send(b"you said " + message)

    async def flood(self, message: bytes, call: Call) -> None:
        try:
            for _ in range(int(message)):
                await call.send(bytes(PIECE))
                self.sent += 1
        finally:
            self.cancelled.set()

    async def idle(self, call: Call) -> None:
        call.start()
        self.started.set()
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled.set()


@asynccontextmanager
async def client_of(stack: Stack[Exchange], **settings: int) -> AsyncIterator[GrpcClient]:
    """Serve exchanges in memory, and yield a client of them."""
    listener = MemoryListener()
    async with serving(Http() | stack, listener), opened(Client() | MemoryConnect(listener)) as service:
        yield GrpcClient(service, **settings)


@asynccontextmanager
async def client_at(port: int, **settings: int) -> AsyncIterator[GrpcClient]:
    """Yield a client of a server on loopback."""
    async with opened(Client() | Connect(f"127.0.0.1:{port}")) as service:
        yield GrpcClient(service, **settings)
