"""The rules of the design that belong to no single module, each by its number."""

import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from linkerd_proxy.core.background import open_background, unwrapped
from linkerd_proxy.core.contain import contained
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.message import EMPTY, Body, Request, Response, Streamed, Whole
from linkerd_proxy.core.stack import Layer, Service, Stack, opened
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.errors import CODES, AlreadyAnswered, NotAnswered, PayloadTooLarge, ProxyError, UpstreamClosed
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.server import Http
from linkerd_proxy.testing import EOF, Script, call, memory_connection

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answers(Stack[Exchange]):
    service: Service[Exchange]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Exchange]]:
        yield self.service


async def test_rule_1_a_client_that_goes_away_cancels_the_exchange() -> None:
    ended: list[BaseException] = []

    async def service(exchange: Exchange) -> None:
        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 1000
                await trio.lowlevel.checkpoint()

        try:
            await exchange.respond(Response(body=Streamed(endless())))
        except BaseException as error:
            ended.append(error)
            raise

    client, connection = memory_connection()
    async with opened(Http() | Answers(service)) as serve, trio.open_nursery() as nursery:
        nursery.start_soon(serve, connection)
        await client.send_all(GET)
        await client.receive_some()
        await trio.aclose_forcefully(client)
    assert [type(error) for error in ended] == [trio.Cancelled]


async def test_rule_1_a_failing_upstream_is_an_exception_that_passes_respond_unchanged() -> None:
    failure = UpstreamClosed("half way")
    seen: list[BaseException] = []

    class Broken(Body):
        async def pull(self) -> bytes:
            raise failure

    async def service(exchange: Exchange) -> None:
        try:
            await exchange.respond(Response(body=Broken()))
        except Exception as error:
            seen.append(error)
            raise

    client, connection = memory_connection()
    async with opened(Http() | Answers(service)) as serve, trio.open_nursery() as nursery:
        nursery.start_soon(contained, serve, connection)
        await client.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert seen == [failure]


async def test_rule_2_nothing_keeps_work_that_is_done() -> None:
    kept: list[weakref.ref[Body]] = []

    class Watched(Whole):
        __slots__ = ("__weakref__",)

    async def service(exchange: Exchange) -> None:
        body = Watched(b"ok")
        kept.append(weakref.ref(body))
        await exchange.respond(Response(body=body))

    client, connection = memory_connection()
    async with opened(Http() | Answers(service)) as serve, trio.open_nursery() as nursery:
        nursery.start_soon(serve, connection)
        await client.send_all(GET)
        await client.receive_some()
        await trio.testing.wait_all_tasks_blocked()
        assert kept[0]() is None  # while the connection waits for its next request
        nursery.cancel_scope.cancel()


async def test_rule_3_an_exchange_without_an_answer_is_not_answered() -> None:
    async def silent(exchange: Exchange) -> None:
        await trio.lowlevel.checkpoint()

    with pytest.raises(NotAnswered):
        async with call(silent, Request()):
            pass
    client, connection = memory_connection()
    async with opened(Http() | Answers(silent)) as serve, trio.open_nursery() as nursery:
        nursery.start_soon(serve, connection)
        await client.send_all(GET)
        assert (await client.receive_some()).startswith(b"HTTP/1.1 502 ")
        nursery.cancel_scope.cancel()


async def test_rule_3_a_second_answer_is_loud() -> None:
    second: list[BaseException] = []

    async def twice(exchange: Exchange) -> None:
        await exchange.respond(Response(body=b"ok"))
        try:
            await exchange.respond(Response(500))
        except Exception as error:
            second.append(error)

    client, connection = memory_connection()
    async with opened(Http() | Answers(twice)) as serve, trio.open_nursery() as nursery:
        nursery.start_soon(serve, connection)
        await client.send_all(GET)
        assert (await client.receive_some()).startswith(b"HTTP/1.1 200 ")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [type(error) for error in second] == [AlreadyAnswered]


@dataclass(frozen=True, slots=True)
class Background(Layer[str, str]):
    log: list[str] = field(repr=False)

    @asynccontextmanager
    async def open(self, inner: Service[str]) -> AsyncIterator[Service[str]]:
        async def work() -> None:
            self.log.append("started")
            try:
                await trio.sleep_forever()
            finally:
                self.log.append("cancelled")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            await trio.testing.wait_all_tasks_blocked()
            yield inner
            nursery.cancel_scope.cancel()


@dataclass(frozen=True, slots=True)
class Nothing(Stack[str]):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[str]]:
        async def service(work: str) -> None:
            await trio.lowlevel.checkpoint()

        yield service


async def test_rule_4_tasks_start_before_the_yield_and_end_after_it() -> None:
    log: list[str] = []
    async with opened(Background(log) | Nothing()) as service:
        assert log == ["started"]
        await service("x")
        assert log == ["started"]
    assert log == ["started", "cancelled"]


async def test_rule_5_and_6_a_pipeline_ends_at_once_when_it_is_cancelled_on_any_clock(autojump_clock) -> None:
    client, connection = memory_connection()

    async def never(exchange: Exchange) -> None:
        await trio.sleep_forever()

    async with opened(Http() | Answers(never)) as serve:
        started = trio.current_time()
        with trio.move_on_after(3600):
            await client.send_all(GET)
            await serve(connection)
        assert trio.current_time() - started == pytest.approx(3600)


async def test_rule_7_a_background_task_that_fails_while_all_is_cancelled_makes_no_group(autojump_clock) -> None:
    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise UpstreamClosed("while it was closed")

    async def cancelled() -> None:
        with trio.move_on_after(1):
            async with open_background() as nursery:
                nursery.start_soon(fail_when_cancelled)
                await trio.sleep_forever()

    with pytest.raises(UpstreamClosed):
        await cancelled()


def test_rule_7_unwrapping_finds_what_tells_most() -> None:
    error = UpstreamClosed("x")
    group = ExceptionGroup("", [ValueError(), ExceptionGroup("", [OSError(), error])])
    assert unwrapped(group) is error
    assert unwrapped(error) is error
    first = ValueError()
    assert unwrapped(ExceptionGroup("", [ExceptionGroup("", [first]), OSError()])) is first


async def test_rule_9_reading_whole_bodies_and_writing_failures_is_bounded() -> None:
    assert await Whole(b"12345").read(limit=5) == b"12345"
    with pytest.raises(PayloadTooLarge, match="read"):
        await Whole(b"12345").read(limit=4)


async def test_rule_10_nothing_is_made_before_it_is_pulled() -> None:
    made: list[bytes] = []

    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (b"a", b"", b"b"):
            made.append(chunk)
            yield chunk

    async def service(exchange: Exchange) -> None:
        await exchange.respond(Response(body=Streamed(chunks())))

    async with call(service, Request()) as response:
        await trio.testing.wait_all_tasks_blocked()
        assert made == []
        assert await response.body.pull() == b"a"
        assert made == [b"a"]
        assert await response.body.pull() == b"b"  # an empty chunk is no end
        assert await response.body.pull() == b""


async def test_half_a_generated_body_never_passes_for_a_whole_one(autojump_clock) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        await trio.sleep(10)
        yield b"b"

    body = Streamed(slow())
    assert await body.pull() == b"a"
    with trio.move_on_after(1):
        await body.pull()
    with pytest.raises(RuntimeError, match="the rest of the body is lost"):
        await body.pull()


async def test_a_channel_as_a_body_survives_a_cancelled_pull(autojump_clock) -> None:
    send, receive = trio.open_memory_channel[bytes](1)
    body = Streamed(receive)
    with trio.move_on_after(1):
        await body.pull()
    await send.send(b"late")
    await send.aclose()
    assert [chunk async for chunk in body] == [b"late"]


async def test_an_empty_body_stays_empty() -> None:
    assert await EMPTY.read() == b""
    assert EMPTY.length == 0
    assert Request(body=b"").body is EMPTY
    assert Response(body=b"x").body.length == 1


async def test_drain_calls_each_once_and_at_once_when_it_is_late() -> None:
    drain = Drain(grace=5)
    calls: list[str] = []
    with drain.calling(lambda: calls.append("ended")):
        pass
    with drain.calling(lambda: calls.append("early")):
        drain.start()
        drain.start()
        with drain.calling(lambda: calls.append("late")):
            pass
    await drain.wait()
    assert calls == ["early", "late"]
    assert repr(drain) == "<Drain draining, grace 5 s>"


async def test_what_a_background_task_opens_stands_alone() -> None:
    opens: list[str] = []

    @dataclass(frozen=True, slots=True)
    class Noted(Nothing):
        @asynccontextmanager
        async def open(self) -> AsyncIterator[Service[str]]:
            opens.append("open")
            async with Nothing.open(self) as service:
                yield service

    shared = Noted()

    @dataclass(frozen=True, slots=True)
    class Opener(Stack[str]):
        @asynccontextmanager
        async def open(self) -> AsyncIterator[Service[str]]:
            async def later() -> None:
                async with opened(shared):
                    await trio.sleep_forever()

            async with opened(shared) as service, trio.open_nursery() as nursery:
                nursery.start_soon(later)
                await trio.testing.wait_all_tasks_blocked()
                yield service
                nursery.cancel_scope.cancel()

    async with opened(Opener()):
        assert opens == ["open", "open"]


def test_every_error_has_a_code_a_status_and_a_remedy_in_its_text() -> None:
    assert {error.code for error in ProxyError.__subclasses__()} <= set(CODES)
    for code, error in CODES.items():
        assert error.code == code
        assert 400 <= error.status <= 599
    error = UpstreamClosed("closed", layer="Client", endpoint="10.0.0.1:80", waited=1.5)
    assert error.explanation == (
        "UC Client: closed (endpoint 10.0.0.1:80) after 1.5 s; look into the upstream's log: it closed before it had answered"
    )


def test_headers_are_a_multimap_without_case() -> None:
    headers = Headers([("Accept", "a"), ("X-One", "1"), ("accept", "b")])
    assert headers.get_all("ACCEPT") == ["a", "b"]
    assert headers["x-one"] == "1"
    copy = headers.copy()
    copy.set("Accept", "c")
    assert list(copy) == [("x-one", "1"), ("accept", "c")]
    assert len(headers) == 3
    assert "accept" in headers
    assert 7 not in headers  # type: ignore[operator]
    with pytest.raises(KeyError):
        headers["none"]
    with pytest.raises(TypeError):
        hash(headers)


async def test_connections_are_told_apart_and_scripts_speak_to_services() -> None:
    client, connection = memory_connection()
    assert connection != memory_connection()[1]
    assert len({connection, connection.with_stream(connection.stream)}) == 2

    async def hello(connection: Connection) -> None:
        await connection.stream.send_all(b"hello")
        await connection.stream.send_eof()

    await hello(connection)
    await (Script() << b"hello" << EOF).play(client)


async def test_reading_a_body_chunk_by_chunk_can_stop_and_go_on() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (b"one", b"two", b"three"):
            yield chunk

    body = Streamed(chunks())
    async for chunk in body:
        assert chunk == b"one"
        break
    assert [chunk async for chunk in body] == [b"two", b"three"]
