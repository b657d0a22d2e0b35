"""Deadlines of whole pieces of work."""

from contextlib import asynccontextmanager

import pytest
import trio

from linkerd_proxy.core.message import Request, Response, Streamed
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.errors import InvalidConfiguration, ResponseTimeout
from linkerd_proxy.http.handler import Handler
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.retry import Retry, Timeout
from linkerd_proxy.testing import call, memory_connection


def slow(head: float, chunks: tuple[float, ...] = ()) -> Handler:
    async def body():
        for seconds in chunks:
            await trio.sleep(seconds)
            yield b"chunk"

    async def answer(_: Request) -> Response:
        await trio.sleep(head)
        return Response(200, body=Streamed(body()))

    return Handler(answer)


async def test_work_that_is_quick_enough_is_let_be(autojump_clock) -> None:
    async with call(Timeout(5) | slow(4, (0.5,)), Request()) as response:
        assert await response.body.read() == b"chunk"


async def test_no_answer_in_time_is_a_timeout_that_explains_itself(autojump_clock) -> None:
    with pytest.raises(ResponseTimeout) as caught:
        async with call(Timeout(5) | slow(6), Request()):
            pytest.fail("answered")
    assert trio.current_time() == pytest.approx(5)
    assert (caught.value.status, caught.value.closes, caught.value.waited) == (504, False, 5)
    assert str(caught.value) == (
        "Timeout: the exchange was not complete after 5 s; look for what keeps the upstream, or raise Timeout(...)"
    )


async def test_the_deadline_counts_to_the_last_byte(autojump_clock) -> None:
    async with call(Timeout(5) | slow(2, (1, 1, 1.5)), Request()) as response:
        assert await response.body.pull() == b"chunk"
        assert await response.body.pull() == b"chunk"
        with pytest.raises(ResponseTimeout):
            await response.body.pull()
    assert trio.current_time() == pytest.approx(5)


async def test_it_ends_connections_too(autojump_clock) -> None:
    class Silent(Stack[Connection]):
        @asynccontextmanager
        async def open(self):
            async def service(connection: Connection) -> None:
                await trio.sleep_forever()

            yield service

    _, connection = memory_connection()
    async with opened(Timeout[Connection](3) | Silent()) as service:
        with pytest.raises(ResponseTimeout, match="the connection was not complete after 3 s"):
            await service(connection)


async def test_a_cancellation_from_outside_is_not_its_own(autojump_clock) -> None:
    _, connection = memory_connection()
    async with opened(Timeout(5) | slow(9)) as service:
        with trio.move_on_after(5) as same_time:
            await service(Exchange(Request(), never, connection))
        assert same_time.cancelled_caught
        with trio.move_on_after(1) as earlier:
            await service(Exchange(Request(), never, connection))
        assert earlier.cancelled_caught


async def test_an_error_of_its_own_passes_through(autojump_clock) -> None:
    async def fails(_: Request) -> Response:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        async with call(Timeout(5) | Handler(fails), Request()):
            pytest.fail("answered")


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_impossible_deadlines_are_refused(seconds: float) -> None:
    with pytest.raises(InvalidConfiguration, match="greater than 0"):
        Timeout(seconds)


async def never(_: Response) -> None:
    pytest.fail("answered")


async def test_exchanges_of_one_connection_share_a_scope_until_one_expires(autojump_clock) -> None:
    async def answer(request: Request) -> Response:
        await trio.sleep(float(request.path[1:]))
        return Response(200)

    client, connection = memory_connection()
    statuses = []
    stack = Http() | Rescue() | Timeout(8) | Retry(limit=2) | Timeout(3) | Handler(answer)
    async with opened(stack) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, connection)
        for seconds in (1, 4, 1, 2, 9, 1):
            await client.send_all(f"GET /{seconds} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            statuses.append((await client.receive_some(4096))[9:12])
        await client.aclose()
    assert statuses == [b"200", b"504", b"200", b"200", b"504", b"200"]


async def test_a_client_that_goes_away_is_no_timeout(autojump_clock) -> None:
    ended = []

    async def answer(_: Request) -> Response:
        try:
            await trio.sleep_forever()
        except BaseException as error:
            ended.append((type(error), trio.current_time()))
            raise

    client, connection = memory_connection()
    async with opened(Http() | Timeout(3) | Handler(answer)) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, connection)
        await client.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert ended == [(trio.Cancelled, 1)]
