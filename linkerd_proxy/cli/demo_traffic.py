"""The clients of the demonstration: real requests over real connections, at a steady rate."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import trio

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.cli.demo_apps import GREETING, SAY
from linkerd_proxy.core.codes import code_of
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.own import own_connection
from linkerd_proxy.core.stack import Service, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import ProxyError
from linkerd_proxy.grpc.client import GrpcClient
from linkerd_proxy.grpc.status import GrpcError
from linkerd_proxy.http.client import Client
from linkerd_proxy.io.dial import dial
from linkerd_proxy.metrics.histogram import Histogram
from linkerd_proxy.tcp.connect import Connect

__all__ = ["WINDOW", "Traffic", "Watched"]

_TIMEOUT = 5.0  # seconds after which a request of the demonstration has failed
_AT_ONCE = 32  # requests in flight for each protocol
_TCP_CLIENTS = 5
_ECHOES = 20  # on one TCP connection, before a new one
WINDOW = 3.0
"""Seconds over which a rate is measured."""


class Watched:
    """What the clients of one protocol saw."""

    def __init__(self, protocol: str, title: str) -> None:
        self.protocol = protocol
        """As the proxy's metrics call it."""
        self.title = title
        self.succeeded: int = 0
        self.failed: int = 0
        self.latency: Histogram = Histogram()
        """Milliseconds from the request's first byte to the answer's last."""
        self.failures: deque[str] = deque(maxlen=5)
        """The last ones, in words."""
        self._recent: deque[tuple[float, int]] = deque()

    @property
    def total(self) -> int:
        """How many requests have ended."""
        return self.succeeded + self.failed

    def rate(self, now: float) -> float:
        """Return the requests per second of the last few seconds."""
        self._recent.append((now, self.total))
        while len(self._recent) > 2 and now - self._recent[0][0] > WINDOW:
            self._recent.popleft()
        (since, before), seconds = self._recent[0], now - self._recent[0][0]
        return (self.total - before) / seconds if now > since else 0.0

    async def count(self, request: Callable[[], Awaitable[None]], *, probe: bool = False) -> None:
        """Make one request, and count how it went; a probe only if it failed."""
        started = trio.current_time()
        try:
            with trio.fail_after(_TIMEOUT):
                await request()
        except (ProxyError, OSError, trio.BrokenResourceError, trio.TooSlowError, _Wrong) as error:
            self.failed += 1
            code = "" if isinstance(error, (_Wrong, trio.TooSlowError)) else f"{code_of(error)} "
            self.failures.append(f"{self.title}: {code}{str(error) or f'no answer within {_TIMEOUT:g} s'}")
        else:
            if probe:
                return
            self.succeeded += 1
            self.latency.record((trio.current_time() - started) * 1000)


class _Wrong(Exception):
    """An answer that is not the right one."""


class Traffic:
    """Sends ``rate`` requests a second in each of the three protocols through the proxy at ``address``."""

    def __init__(self, address: AnyAddress, rate: float) -> None:
        self.web: Watched = Watched("http/1", "HTTP/1.1")
        self.grpc: Watched = Watched("http/2", "gRPC")
        self.echo: Watched = Watched("opaque", "TCP")
        self.all: tuple[Watched, Watched, Watched] = (self.web, self.grpc, self.echo)
        self._address = address
        self._interval = 1 / rate
        self._stopping = trio.Event()

    def stop(self) -> None:
        """Send nothing new; :meth:`run` returns when what is under way has ended."""
        self._stopping.set()

    async def run(self) -> None:
        """Send until stopped. Cancellation drops what is under way."""
        async with AsyncExitStack() as exits:
            web = await exits.enter_async_context(opened(Client(protocol="http/1.1") | Connect(self._address)))
            grpc = await exits.enter_async_context(opened(Client(protocol="h2") | Connect(self._address)))
            client = GrpcClient(grpc, authority="api.demo")
            # The first request of a process loads and compiles; what comes after it is what a proxy does all day.
            await Watched("", "").count(lambda: _greet(web))
            await Watched("", "").count(lambda: _say(client))
            for watched in self.all:
                watched.rate(trio.current_time())  # from here on
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._steadily, self.web, lambda: _greet(web))
                nursery.start_soon(self._steadily, self.grpc, lambda: _say(client))
                for _ in range(_TCP_CLIENTS):
                    nursery.start_soon(self._echo)

    async def _steadily(self, watched: Watched, request: Callable[[], Awaitable[None]]) -> None:
        room = trio.Semaphore(_AT_ONCE)

        async def one() -> None:
            await watched.count(request)
            room.release()

        due = trio.current_time()
        async with trio.open_nursery() as nursery:
            while not self._stopping.is_set():
                await room.acquire()
                nursery.start_soon(one)
                due = max(due + self._interval, trio.current_time() - 1)
                await self._until(due)

    async def _until(self, due: float) -> None:
        with trio.move_on_at(due):
            await self._stopping.wait()

    async def _echo(self) -> None:
        interval = self._interval * _TCP_CLIENTS
        due = trio.current_time()
        while not self._stopping.is_set():
            try:
                stream = await dial(self._address)
            except ProxyError as error:
                self.echo.failed += 1
                self.echo.failures.append(f"{self.echo.title}: {error.explanation}")
                due = trio.current_time() + interval
                await self._until(due)
                continue
            async with stream:
                failed = self.echo.failed
                await self.echo.count(lambda: _greeted(stream), probe=True)  # noqa: B023  # awaited in this turn
                if self.echo.failed > failed:
                    due = trio.current_time() + interval
                    await self._until(due)
                    continue
                for number in range(_ECHOES):
                    if self._stopping.is_set():
                        break
                    due = max(due + interval, trio.current_time())
                    failed = self.echo.failed
                    await self.echo.count(lambda: _ping(stream, number))  # noqa: B023  # awaited in this turn
                    if self.echo.failed > failed:
                        break
                    await self._until(due)
                await stream.send_eof()


async def _greet(service: Service[Exchange]) -> None:
    body = await _ask(service, Request("GET", "/hello", authority="api.demo"))
    if not body.startswith(b"Hello web.mesh.local, this is api-"):
        raise _Wrong(f"the answer begins with {body[:40]!r}")


async def _say(client: GrpcClient) -> None:
    try:
        said = await client.unary(SAY, b"hello")
    except GrpcError as error:
        if isinstance(error.__cause__, ProxyError):
            raise error.__cause__ from None
        raise _Wrong(f"{error.status.name}: {error.message}") from error
    if said != b"hello":
        raise _Wrong(f"{len(said)} other bytes came back")


async def _greeted(stream: trio.abc.Stream) -> None:
    received = b""
    while len(received) < len(GREETING):
        data = await stream.receive_some(len(GREETING) - len(received))
        if not data:
            raise _Wrong("the connection ended before the server's greeting")
        received += data
    if received != GREETING:
        raise _Wrong("the server greets with other words")


async def _ping(stream: trio.abc.Stream, number: int) -> None:
    sent = bytes((0, number)) * 128
    await stream.send_all(sent)
    received = b""
    while len(received) < len(sent):
        data = await stream.receive_some(65536)
        if not data:
            raise _Wrong(f"the connection ended after {len(received)} of {len(sent)} bytes")
        received += data
    if received != sent:
        raise _Wrong("other bytes came back")


async def _ask(service: Service[Exchange], request: Request) -> bytes:
    answer: list[tuple[Response, bytes]] = []

    async def respond(response: Response) -> None:
        if response.is_final:
            answer.append((response, await response.body.read()))

    await service(Exchange(request, respond, own_connection()))
    if not answer:
        raise _Wrong("no answer")
    response, body = answer[0]
    if response.status != 200:
        raise _Wrong(f"status {response.status}, {response.headers.get('l5d-proxy-error') or 'no l5d-proxy-error'}")
    return body
