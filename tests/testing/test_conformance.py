"""The conformance kit finds each rule broken by a layer that breaks it, and nothing in layers that don't."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from linkerd_proxy import (
    Client,
    Connection,
    Dial,
    Exchange,
    Forward,
    Http,
    Layer,
    Limit,
    Metrics,
    Request,
    Rescue,
    Response,
    SendProxyProtocol,
    Service,
    Target,
    Timeout,
)
from linkerd_proxy.address import Address
from linkerd_proxy.testing import Faults, LayerViolations, check_layer, memory_connection


def exchange() -> Exchange:
    async def respond(response: Response) -> None:
        while await response.body.pull():
            pass

    return Exchange(Request(), respond, memory_connection()[1])


def connection() -> Connection:
    client, connection = memory_connection(original_dst=Address("10.0.0.1", 80))
    assert isinstance(client, trio.StapledStream)
    client.send_stream.close()  # the client has nothing to say
    return connection


def asked() -> Connection:
    client, connection = memory_connection()
    assert isinstance(client, trio.StapledStream)
    assert isinstance(connection.stream, trio.StapledStream)
    connection.stream.receive_stream.put_data(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    connection.stream.receive_stream.put_eof()
    return connection


def dial() -> Dial:
    async def use(stream: trio.abc.HalfCloseableStream) -> None:
        await trio.lowlevel.checkpoint()

    return Dial(Target(), use)


@dataclass(frozen=True, slots=True)
class Good(Layer[Exchange, Exchange]):
    name: str = "x"

    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        await inner(work)


async def _breaks(layer: Layer[Exchange, Exchange], *rules: str) -> None:
    with pytest.raises(LayerViolations) as caught:
        await check_layer(layer, exchange)
    assert caught.value.rules == set(rules)
    assert type(layer).__name__ in str(caught.value)


async def test_a_good_layer_breaks_nothing() -> None:
    await check_layer(Good("y"), exchange)


@dataclass(frozen=True, slots=True)
class Unreached(Good):
    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        await work.respond(Response(204))


async def test_reaches() -> None:
    await _breaks(Unreached(), "reaches", "raises")


@dataclass(frozen=True, slots=True)
class Shared(Good):
    """Keeps the inner service of its last opening for all."""

    @asynccontextmanager
    async def open(self, inner: Service[Exchange]) -> AsyncIterator[Service[Exchange]]:
        _live[self] = inner

        async def service(work: Exchange) -> None:
            await _live[self](work)

        yield service


_live: dict[Shared, Service[Exchange]] = {}


async def test_reaches_its_own_opening() -> None:
    await _breaks(Shared(), "reaches")


@dataclass(frozen=True, slots=True)
class Lingering(Good):
    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        await inner(work)
        await trio.sleep_forever()


async def test_serves() -> None:
    await _breaks(Lingering(), "serves", "opens")


@dataclass(frozen=True, slots=True)
class Twice(Good):
    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        await inner(work)
        await work.respond(Response())


async def test_answers() -> None:
    await _breaks(Twice(), "answers")


@dataclass(frozen=True, slots=True)
class Swallowing(Good):
    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        try:
            await inner(work)
        except trio.Cancelled:
            raise RuntimeError("cancelled") from None


@dataclass(frozen=True, slots=True)
class Shielding(Good):
    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        with trio.CancelScope(shield=True) as scope:
            scope.deadline = trio.current_time() + 50
            await inner(work)


async def test_cancels(autojump_clock) -> None:
    await _breaks(Swallowing(), "cancels")
    await _breaks(Shielding(), "cancels")


@dataclass(frozen=True, slots=True)
class Translating(Good):
    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        try:
            await inner(work)
        except OSError as error:
            raise RuntimeError("translated") from error


async def test_raises() -> None:
    await _breaks(Translating(), "raises")


@dataclass(frozen=True, slots=True)
class Grouping(Good):
    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inner, work)


async def test_ungrouped() -> None:
    await _breaks(Grouping(), "ungrouped", "raises")


@dataclass(frozen=True, slots=True)
class Keeping(Good):
    @asynccontextmanager
    async def open(self, inner: Service[Exchange]) -> AsyncIterator[Service[Exchange]]:
        seen: list[Exchange] = []

        async def service(work: Exchange) -> None:
            seen.append(work)
            await inner(work)

        yield service


async def test_forgets() -> None:
    await _breaks(Keeping(), "forgets")


@dataclass(frozen=True, slots=True)
class Once(Good):
    @asynccontextmanager
    async def open(self, inner: Service[Exchange]) -> AsyncIterator[Service[Exchange]]:
        _openings[self] = _openings.get(self, 0) + 1

        async def service(work: Exchange) -> None:
            if _openings[self] > 0:
                await inner(work)
            else:
                await work.respond(Response(503))
                raise ValueError("closed")

        yield service
        _openings[self] = -1000  # as one does that closes what it shares


_openings: dict[Once, int] = {}


async def test_opens() -> None:
    with pytest.raises(LayerViolations) as caught:
        await check_layer(Once(), exchange)
    assert "opens" in caught.value.rules


@dataclass(frozen=True, slots=True)
class SlowToClose(Good):
    @asynccontextmanager
    async def open(self, inner: Service[Exchange]) -> AsyncIterator[Service[Exchange]]:
        yield inner
        await trio.sleep(30)


async def test_closes(autojump_clock) -> None:
    await _breaks(SlowToClose(), "closes")


@dataclass(frozen=True, slots=True)
class Leaking(Good):
    @asynccontextmanager
    async def open(self, inner: Service[Exchange]) -> AsyncIterator[Service[Exchange]]:
        trio.lowlevel.spawn_system_task(trio.sleep, 1000)
        yield inner


async def test_closes_without_a_task_left() -> None:
    await _breaks(Leaking(), "closes")


class Mutable(Layer[Exchange, Exchange]):
    def __init__(self) -> None:
        self.count = 0

    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        self.count += 1
        await inner(work)

    def __repr__(self) -> str:
        return f"Mutable({self.count})"


async def test_value() -> None:
    await _breaks(Mutable(), "value")


@dataclass(frozen=True, slots=True, repr=False)
class Silent(Good):
    def __repr__(self) -> str:
        return "Silent()"


@dataclass(frozen=True, slots=True, repr=False)
class Opaque(Good):
    def __repr__(self) -> str:
        return "<opaque layer>"


async def test_telling() -> None:
    await _breaks(Silent("secret"), "telling")
    await _breaks(Opaque(), "telling")


# --- our own layers ----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [Timeout(5), Limit(3), Metrics()], ids=repr)
async def test_layers_for_exchanges_conform(layer: Layer[Exchange, Exchange]) -> None:
    await check_layer(layer, exchange)


async def test_rescue_conforms_and_rescues() -> None:
    await check_layer(Rescue(), exchange, rescues=True)


@pytest.mark.parametrize(
    "layer", [Timeout[Connection](5), Limit[Connection](3), Metrics[Connection](), Forward()], ids=repr
)
async def test_layers_for_connections_conform(layer: Layer[Connection, Connection]) -> None:
    await check_layer(layer, connection)


@pytest.mark.parametrize(
    "layer", [Timeout[Dial](5), Limit[Dial](3), Metrics[Dial](), Faults(), SendProxyProtocol()], ids=repr
)
async def test_layers_for_dials_conform(layer: Layer[Dial, Dial]) -> None:
    await check_layer(layer, dial)


async def test_http_conforms() -> None:
    await check_layer(Http(), asked)


async def test_client_conforms() -> None:
    async def upstream(dial: Dial) -> None:
        mine, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def answer() -> None:
                async for _ in theirs:
                    await theirs.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

            await dial.use(mine)
            nursery.cancel_scope.cancel()

    await check_layer(Client("http/1.1"), exchange, inner=upstream, shares=True)
