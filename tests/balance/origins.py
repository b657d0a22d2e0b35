"""Endpoints in memory, for balancers under test: each a function of how it answers."""

from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from linkerd_proxy.address import Address
from linkerd_proxy.core.endpoint import Endpoint, Resolution, Resolve
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.discover.publish import Published
from linkerd_proxy.errors import ConnectFailed
from linkerd_proxy.testing import memory_connection


def end(port: int, **more) -> Endpoint:
    return Endpoint(Address("10.0.0.1", port), **more)


@dataclass(frozen=True, slots=True)
class Known(Resolve):
    """A resolution that a test publishes to."""

    published: Published = field(default_factory=Published)

    @asynccontextmanager
    async def open(self):
        resolution: Resolution = self.published
        yield resolution


def known(*ports: int) -> Known:
    resolve = Known()
    resolve.published.publish([end(port) for port in ports])
    return resolve


class Fleet:
    """Endpoints by port: what each does with an exchange, and what happened to it."""

    def __init__(self) -> None:
        self.behaviour: dict[int, object] = {}
        self.opened: Counter[int] = Counter()
        self.closed: Counter[int] = Counter()
        self.served: Counter[int] = Counter()
        self.log: list[int] = []

    def replica(self, endpoint: Endpoint) -> Stack[Exchange]:
        return _Replica(self, endpoint.address.port)


@dataclass(frozen=True, slots=True, repr=False)
class _Replica(Stack[Exchange]):
    fleet: Fleet
    port: int

    @asynccontextmanager
    async def open(self):
        fleet, port = self.fleet, self.port
        fleet.opened[port] += 1

        async def service(exchange: Exchange) -> None:
            fleet.served[port] += 1
            fleet.log.append(port)
            what = fleet.behaviour.get(port, 200)
            if callable(what):
                what = await what(exchange)
            else:
                await trio.lowlevel.checkpoint()
            if what == "refused":
                raise ConnectFailed("connecting failed: Connection refused", endpoint=str(port))
            if isinstance(what, Exception):
                raise what
            if isinstance(what, int):
                what = Response(what)
            await exchange.respond(what)

        try:
            yield service
        finally:
            fleet.closed[port] += 1

    def __repr__(self) -> str:
        return f"Replica({self.port})"


def takes(seconds: float, status: int = 200):
    async def answer(_: Exchange) -> int:
        await trio.sleep(seconds)
        return status

    return answer


def exchange(answers: list[Response] | None = None, **request) -> Exchange:
    async def respond(response: Response) -> None:
        await trio.lowlevel.checkpoint()
        if answers is not None:
            answers.append(response)

    _, connection = memory_connection()
    return Exchange(Request(**request), respond, connection)


async def ask(service, **request) -> int:
    """Serve one exchange, and return its status."""
    answers: list[Response] = []
    await service(exchange(answers, **request))
    (answer,) = answers
    return answer.status
