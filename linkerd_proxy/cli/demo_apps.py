"""The application of the demonstration: three replicas, of which one is slow and one fails now and then."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import Service, Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.grpc.method import Method
from linkerd_proxy.grpc.server import Grpc, unary
from linkerd_proxy.grpc.serving import ServerCall
from linkerd_proxy.grpc.status import GrpcError
from linkerd_proxy.grpc_status import GrpcStatus
from linkerd_proxy.http.handler import handler
from linkerd_proxy.http.server import Http
from linkerd_proxy.route.route import Route

__all__ = ["GREETING", "REPLICAS", "SAY", "Greeter", "Replica", "api_app"]

SAY: Method[bytes, bytes] = Method("/demo.Echo/Say", bytes, bytes)
"""Messages are bytes, so that nobody needs protobuf for a demonstration."""
GREETING = b"220 api is ready\r\n"
"""What the TCP server says before its client has said anything, as mail servers and databases do."""
_LARGEST = 1 << 16  # bytes of a request that the application reads


@dataclass(frozen=True, slots=True)
class Replica:
    """How one replica behaves: milliseconds of pretended work, and the share of calls that it fails."""

    name: str
    shortest: float = 1.0
    longest: float = 5.0
    failing: float = 0.0

    @property
    def title(self) -> str:
        """The name, and what is special about it."""
        if self.failing:
            return f"{self.name} {self.failing:.0%} bad"
        return f"{self.name} slow" if self.longest > 10 else self.name


REPLICAS = (Replica("api-1"), Replica("api-2", 40.0, 60.0), Replica("api-3", failing=0.01))


def api_app(replica: Replica, rng: random.Random) -> Stack[Connection]:
    """Return the application over HTTP: it greets whoever asks, by the name that its proxy vouches for, and echoes."""

    async def work() -> bool:
        await trio.sleep(rng.uniform(replica.shortest, replica.longest) / 1000)
        return rng.random() >= replica.failing

    async def hello(request: Request) -> Response:
        if not await work():
            return Response(503, [("content-type", "text/plain; charset=utf-8")], b"not now\n")
        client = request.headers.get("l5d-client-id") or "somebody"
        text = f"Hello {client}, this is {replica.name}; you asked for {request.method} {request.path}\n"
        return Response(200, [("content-type", "text/plain; charset=utf-8")], text.encode())

    async def say(message: bytes, call: ServerCall[bytes, bytes]) -> bytes:
        if not await work():
            raise GrpcError(GrpcStatus.UNAVAILABLE, "not now")
        return message

    return Http() | Route({"/demo.Echo": Grpc(unary(SAY, say)), "/": handler(hello)})


@dataclass(frozen=True, slots=True)
class Greeter(Stack[Connection]):
    """A TCP server that speaks first: it greets, and then sends back every byte until the client's end."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        """Yield the live service."""

        async def echo(connection: Connection) -> None:
            await connection.stream.send_all(GREETING)
            while data := await connection.stream.receive_some():
                await connection.stream.send_all(data)

        yield echo
