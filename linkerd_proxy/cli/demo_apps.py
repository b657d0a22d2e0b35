"""The three applications of the demonstration, and the proxy before them: all of them the package's own layers."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.core.message import Request, Response, Whole
from linkerd_proxy.core.stack import Service, Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.detect.detect import Detect
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.handler import handler
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.route.route import Route
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.forward import Forward

__all__ = ["GRPC_PATH", "Echo", "demo_proxy", "grpc_app", "web_app"]

GRPC_PATH = "/demo.Echo/Say"
_LARGEST = 1 << 16  # bytes of a request that an application reads


def web_app(rng: random.Random) -> Stack[Connection]:
    """Return an application that greets whoever asks, after one to six milliseconds of pretended work."""

    async def hello(request: Request) -> Response:
        await trio.sleep(rng.uniform(0.001, 0.006))
        name = (await request.body.read(_LARGEST)).decode("utf-8", "replace") or "you"
        text = f"Hello {name}, you asked for {request.method} {request.path}\n"
        return Response(200, [("content-type", "text/plain; charset=utf-8")], text.encode())

    return Http() | handler(hello)


def grpc_app(rng: random.Random) -> Stack[Connection]:
    """Return an application shaped like gRPC: it sends a unary call's message back, with a status in the trailers."""

    async def say(request: Request) -> Response:
        message = await request.body.read(_LARGEST)
        await trio.sleep(rng.uniform(0.0005, 0.003))
        body = Whole(message, Headers([("grpc-status", "0")]))
        return Response(200, [("content-type", "application/grpc")], body)

    return Http() | handler(say)


@dataclass(frozen=True, slots=True)
class Echo(Stack[Connection]):
    """Sends back every byte that it gets, until the client's end."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        """Yield the live service."""

        async def echo(connection: Connection) -> None:
            while data := await connection.stream.receive_some():
                await connection.stream.send_all(data)

        yield echo


def demo_proxy(web: AnyAddress, grpc: AnyAddress, echo: AnyAddress) -> Stack[Connection]:
    """Return the proxy: one port for three protocols, which it tells apart."""
    routes = Route({"/demo.Echo": Client() | Connect(grpc), "/": Client() | Connect(web)})
    return Detect(
        http=Metrics[Connection]() | Http() | Metrics() | Rescue() | routes,
        otherwise=Metrics[Connection]() | Forward() | Connect(echo),
    )
