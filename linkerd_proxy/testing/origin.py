"""Origins: servers to stand behind a proxy, in memory or on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.serve import Listener, serve
from linkerd_proxy.core.stack import Service, Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.http.handler import handler
from linkerd_proxy.http.server import Http
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.testing.ungroup import open_plain_nursery

__all__ = ["Origin", "echo", "http_origin", "serving", "tcp_origin"]


class Origin:
    """A server that runs, and what it has seen so far."""

    address: AnyAddress
    """Where it listens, once it does."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        """Every request's head, in the order in which they came (HTTP only)."""
        self.connections = 0
        """How many connections were accepted."""

    def __repr__(self) -> str:
        return f"<Origin {self.address}, {self.connections} connections, {len(self.requests)} requests>"


@asynccontextmanager
async def serving(
    stack: Stack[Connection], listener: Listener | None = None, *, drain: Drain | None = None
) -> AsyncIterator[AnyAddress]:
    """Serve a stack inside the block, on a port of loopback that the system chooses, and yield the address.

    Args:
        stack: What serves a connection.
        listener: Where connections come from instead, for example a ``MemoryListener``.
        drain: Started by whoever wants to see the stack drain.

    Leaving the block cancels what is still being served; what the block raises comes out in no group.
    """
    listeners = [listener] if listener is not None else await open_listeners("127.0.0.1:0")
    async with open_plain_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[object]) -> None:
            await serve(stack, listeners, drain=drain, task_status=task_status)

        await nursery.start(run)
        yield listeners[0].address
        nursery.cancel_scope.cancel()


async def echo(connection: Connection) -> None:
    """Send back whatever comes, and the end as well."""
    async for data in connection.stream:
        await connection.stream.send_all(data)
    await connection.stream.send_eof()


async def _tell(request: Request) -> Response:
    """Answer with the request's body, or else with its method and path."""
    body = await request.body.read()
    return Response(200, [("content-type", "text/plain")], body or f"{request.method} {request.path}".encode())


@asynccontextmanager
async def http_origin(
    answer: Callable[[Request], Awaitable[Response]] = _tell, *, listener: Listener | None = None
) -> AsyncIterator[Origin]:
    """Run an HTTP server (HTTP/1 and HTTP/2) that answers with what a function returns.

    Args:
        answer: By default it sends the request's body back, or else its method and path.
        listener: Where it listens; by default on a port of loopback that the system chooses.
    """
    origin = Origin()

    async def noted(request: Request) -> Response:
        origin.requests.append(request)
        return await answer(request)

    async with serving(_Counted(Http() | handler(noted), origin), listener) as origin.address:
        yield origin


@asynccontextmanager
async def tcp_origin(service: Service[Connection] = echo, *, listener: Listener | None = None) -> AsyncIterator[Origin]:
    """Run a TCP server.

    Args:
        service: Serves each connection; by default it sends back whatever comes.
        listener: Where it listens; by default on a port of loopback that the system chooses.
    """
    origin = Origin()
    async with serving(_Counted(_Leaf(service), origin), listener) as origin.address:
        yield origin


@dataclass(frozen=True, slots=True)
class _Leaf(Stack[Connection]):
    service: Service[Connection]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        yield self.service


@dataclass(frozen=True, slots=True)
class _Counted(Stack[Connection]):
    stack: Stack[Connection]
    origin: Origin

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        async with self.stack.open() as inner:

            async def service(connection: Connection) -> None:
                self.origin.connections += 1
                await inner(connection)

            yield service
