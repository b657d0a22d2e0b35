"""One exception at one point of a pipeline, counted from its start: at each service call, stream call and wait."""

import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import trio

from linkerd_proxy import Body, Connection, Dial, Exchange, Layer, Response, Service
from linkerd_proxy.io.streams import SocketStream, watch_hangup

W = TypeVar("W")


class Injector:
    """Counts the points that the armed pipeline passes, and strikes at one of them.

    Args:
        at: The point to strike at, from 1.
        error: What to raise there; None cancels what runs there instead.
    """

    def __init__(self, at: int, error: Callable[[], Exception] | None) -> None:
        self.at = at
        self.error = error
        self.armed = False
        self.count = 0
        self.hit: str | None = None

    def point(self, name: str) -> None:
        """Pass a point at which an exception may come."""
        if self.armed and self.error is not None and self._strikes(name):
            raise self.error()

    def wait(self, name: str, scope: trio.CancelScope) -> None:
        """Pass a point at which a task gives way to Trio."""
        if self.armed and self.error is None and self._strikes(name):
            scope.cancel()

    def _strikes(self, name: str) -> bool:
        self.count += 1
        if self.count == self.at:
            self.hit = name
        return self.count == self.at


@types.coroutine
def _driven(coroutine: Coroutine[Any, Any, None], wait: Callable[[], None]) -> Generator[Any, Any, None]:
    """Run a coroutine, and call ``wait`` each time that it is about to give way."""
    step: Callable[[], Any] = lambda: coroutine.send(None)  # noqa: E731
    while True:
        try:
            trap = step()
        except StopIteration:
            return
        wait()
        try:
            value = yield trap
        except BaseException as error:
            step = lambda error=error: coroutine.throw(error)  # noqa: E731
        else:
            step = lambda value=value: coroutine.send(value)  # noqa: E731


class PokedStream(trio.abc.HalfCloseableStream):
    """A stream that passes a point before and after every call."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, name: str, injector: Injector) -> None:
        self.stream = stream
        self.name = name
        self.point = injector.point
        self.broken = False

    async def _passing(self, what: str, call: Awaitable[Any]) -> Any:
        try:
            self._pass(f"before {self.name}.{what}")
        except BaseException:
            call.close()  # type: ignore[attr-defined]
            raise
        try:
            result = await call
        except trio.ClosedResourceError:
            if self.broken:
                raise trio.BrokenResourceError("injected before") from None
            raise
        self._pass(f"after {self.name}.{what}")
        return result

    def _pass(self, point: str) -> None:
        if self.broken:
            raise trio.BrokenResourceError("injected before")
        try:
            self.point(point)
        except trio.BrokenResourceError:
            self.broken = True  # a stream breaks in both directions, and for its peer too
            self.abort()
            raise

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._passing("receive_some", self.stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._passing("send_all", self.stream.send_all(data))

    async def wait_send_all_might_not_block(self) -> None:
        await self._passing("wait_send_all_might_not_block", self.stream.wait_send_all_might_not_block())

    async def send_eof(self) -> None:
        await self._passing("send_eof", self.stream.send_eof())

    async def aclose(self) -> None:
        await self.stream.aclose()

    def abort(self) -> None:
        assert isinstance(self.stream, SocketStream)
        self.stream.abort()

    def watch_hangup(self, callback: Callable[[], None] | None) -> None:
        watch_hangup(self.stream, callback)


class PokedBody(Body):
    """A body that passes a point before every pull."""

    __slots__ = ("body", "injector")

    def __init__(self, body: Body, injector: Injector) -> None:
        super().__init__(body.length)
        self.body = body
        self.injector = injector

    async def pull(self) -> bytes:
        self.injector.point("before response.body.pull")
        chunk = await self.body.pull()
        self.trailers = self.body.trailers
        return chunk


@dataclass(frozen=True, slots=True)
class Poked(Layer[W, W], Generic[W]):
    """Passes points around everything that it hands on."""

    injector: Injector

    @asynccontextmanager
    async def open(self, inner: Service[W]) -> AsyncIterator[Service[W]]:
        injector = self.injector

        async def service(work: W) -> None:
            name = type(work).__name__
            injector.point(f"before {name}")
            with trio.CancelScope() as scope:
                coroutine = inner(self.poked(work))
                await _driven(coroutine, lambda: injector.wait(f"a wait inside {name}", scope))  # type: ignore[arg-type]
            injector.point(f"after {name}")

        yield service

    def poked(self, work: Any) -> Any:
        if isinstance(work, Connection):
            return work.with_stream(PokedStream(work.stream, "downstream", self.injector))
        if isinstance(work, Exchange):
            return self._poked_exchange(work)
        return self._poked_dial(work)

    def _poked_exchange(self, work: Exchange) -> Exchange:
        async def respond(response: Response) -> None:
            if response.is_final:
                response.body = PokedBody(response.body, self.injector)
            await work.respond(response)

        return work.answering(respond)

    def _poked_dial(self, work: Dial) -> Dial:
        async def use(stream: trio.abc.HalfCloseableStream) -> None:
            await work.use(PokedStream(stream, "upstream", self.injector))

        return Dial(work.target, use)
