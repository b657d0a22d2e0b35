"""``call``: an HTTP service turned inside out."""

from collections.abc import AsyncIterator

import pytest
import trio

from linkerd_proxy.core.message import Body, Request, Response, Streamed, Whole
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import AlreadyAnswered, NotAnswered, ResponseTimeout, UpstreamClosed
from linkerd_proxy.headers import Headers
from linkerd_proxy.testing import call


async def test_the_response_comes_with_its_informational_ones_and_its_trailers() -> None:
    finished = False

    async def service(exchange: Exchange) -> None:
        nonlocal finished
        await exchange.respond(Response(103, [("link", "</a.css>")]))
        await exchange.respond(Response(200, body=Whole(b"hello", Headers([("x-sum", "5")]))))
        finished = True

    async with call(service, Request()) as response:
        assert [early.status for early in response.informational] == [103]
        assert response.status == 200
        assert response.body.length == 5
        assert await response.body.read() == b"hello"
        assert await response.body.pull() == b""
        assert response.body.trailers == Headers([("x-sum", "5")])
    assert finished


async def test_respond_returns_only_when_the_body_was_pulled() -> None:
    log: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (b"a", b"b"):
            log.append(f"made {chunk!r}")
            yield chunk

    async def service(exchange: Exchange) -> None:
        await exchange.respond(Response(body=Streamed(chunks())))
        log.append("returned")

    async with call(service, Request()) as response:
        await trio.testing.wait_all_tasks_blocked()
        assert log == []
        assert await response.body.pull() == b"a"
        await trio.testing.wait_all_tasks_blocked()
        assert log == ["made b'a'"]
        assert await response.body.read() == b"b"
    assert log == ["made b'a'", "made b'b'", "returned"]


async def test_leaving_early_cancels_the_service() -> None:
    ended: list[str] = []

    async def service(exchange: Exchange) -> None:
        try:
            await exchange.respond(Response(body=b"never pulled"))
        except trio.Cancelled:
            ended.append("cancelled")
            raise

    async with call(service, Request()) as response:
        assert response.status == 200
    assert ended == ["cancelled"]


async def test_what_the_service_raises_before_its_answer_comes_out_bare() -> None:
    async def service(exchange: Exchange) -> None:
        raise UpstreamClosed("gone")

    with pytest.raises(UpstreamClosed):
        async with call(service, Request()):
            pytest.fail("there is no response")


async def test_what_the_body_raises_comes_out_of_the_pull() -> None:
    class Broken(Body):
        async def pull(self) -> bytes:
            raise UpstreamClosed("half way")

    async def service(exchange: Exchange) -> None:
        await exchange.respond(Response(body=Broken()))

    async with call(service, Request()) as response:
        with pytest.raises(UpstreamClosed, match="half way"):
            await response.body.pull()


async def test_an_error_elsewhere_in_the_service_cancels_the_block(autojump_clock) -> None:
    async def service(exchange: Exchange) -> None:
        with trio.move_on_after(2):
            await exchange.respond(Response(body=b"x"))
        raise ResponseTimeout("slow client")

    with pytest.raises(ResponseTimeout):
        async with call(service, Request()):
            await trio.sleep_forever()
    assert trio.current_time() == pytest.approx(2)


async def test_a_cancelled_pull_loses_no_byte(autojump_clock) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        await trio.sleep(3)
        yield b"late"

    async def service(exchange: Exchange) -> None:
        await exchange.respond(Response(body=Streamed(chunks())))

    async with call(service, Request()) as response:
        with trio.move_on_after(1) as scope:
            await response.body.pull()
        assert scope.cancelled_caught
        await trio.sleep(5)
        assert await response.body.read() == b"late"


async def test_an_unanswered_call_and_a_second_answer_are_bugs() -> None:
    async def silent(exchange: Exchange) -> None:
        await trio.lowlevel.checkpoint()

    with pytest.raises(NotAnswered):
        async with call(silent, Request()):
            pass

    async def twice(exchange: Exchange) -> None:
        await exchange.respond(Response())
        await exchange.respond(Response())

    with pytest.raises(AlreadyAnswered):
        async with call(twice, Request()) as response:
            await response.body.read()


async def test_what_the_block_raises_comes_out_bare_and_cancels_the_service() -> None:
    async def service(exchange: Exchange) -> None:
        await exchange.respond(Response(body=b"x"))

    with pytest.raises(KeyError):
        async with call(service, Request()):
            raise KeyError("mine")


async def test_a_tunnel_ends_when_both_directions_have_ended() -> None:
    up, feed = trio.open_memory_channel[bytes](0)

    async def service(exchange: Exchange) -> None:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                while await exchange.request.body.pull():
                    pass
                log.append("up ended")

            await exchange.respond(Response(101, body=Streamed(aiter_of(b"down"))))
            log.append("both ended")

    async def aiter_of(*chunks: bytes) -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    log: list[str] = []
    request = Request(upgrade="echo", body=Streamed(feed.__aiter__()))
    async with call(service, request) as response:
        assert await response.body.read() == b"down"
        await trio.testing.wait_all_tasks_blocked()
        assert log == []
        await up.send(b"x")
        await up.aclose()
    assert log == ["up ended", "both ended"]
