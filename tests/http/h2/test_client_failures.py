"""What upstreams do wrong, and which failures are safe to repeat."""

import pytest
import trio

from linkerd_proxy.errors import (
    BadRequest,
    IdleTimeout,
    RequestRefused,
    UpstreamClosed,
    UpstreamProtocolError,
    UpstreamReset,
    UpstreamUnsent,
)
from tests.http.h2.expect import CANCEL, INTERNAL, PROTOCOL, REFUSED
from tests.http.h2.frames import data, goaway, headers, raw, rst, settings, window
from tests.http.h2.upstream import OK, get, post, upstream


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([headers(1, [("x", "y")])], PROTOCOL),
        ([headers(1, [(":status", "abc")])], PROTOCOL),
        ([headers(1, [(":status", "101")], end=False)], PROTOCOL),
        ([headers(1, [(":status", "103")])], PROTOCOL),
        ([headers(1, [*OK, ("X", "y")])], PROTOCOL),
        ([headers(1, [*OK, ("connection", "close")])], PROTOCOL),
        ([headers(1, [*OK, ("x", "a\nb")])], PROTOCOL),
        ([headers(1, [*OK, ("content-length", "5")])], PROTOCOL),
        ([headers(1, [*OK, ("content-length", "5")], end=False), data(1, b"123456")], PROTOCOL),
        ([headers(1, [*OK, ("content-length", "5")], end=False), data(1, b"12", end=True)], PROTOCOL),
        ([headers(1, [*OK, ("content-length", "5")], end=False), headers(1, [("x", "y")])], PROTOCOL),
        ([headers(1, [*OK, ("content-length", "5"), ("content-length", "5")], end=False)], PROTOCOL),
        ([headers(1, [(":status", "204")], end=False), data(1, b"x", end=True)], PROTOCOL),
        ([data(1, b"x")], PROTOCOL),
        ([headers(1, OK, end=False), headers(1, OK, end=False)], PROTOCOL),
        ([headers(1, OK, end=False), headers(1, [(":status", "200")])], PROTOCOL),
        ([headers(1, [(":status", "103")], end=False) * 18], PROTOCOL),
        ([headers(1, [*OK, *[("x", "y")] * 100])], PROTOCOL),
    ],
)
async def test_malformed_responses_fail_their_exchange_only(frames, code, autojump_clock):
    async with upstream() as up:
        call = await up.ask()
        other = await up.ask()
        await up.send(*frames)
        assert isinstance(call.error, UpstreamProtocolError)
        assert up.reader.resets(1) in ([code], [])  # nothing to reset where both sides had said all
        await up.send(headers(3, OK))
        assert other.statuses == [200]
        assert up.client.available


@pytest.mark.parametrize(
    "frame",
    [
        raw(0, 0, 1, b"", 20_000),
        raw(5, 4, 1, b"\0\0\0\2"),
        headers(2, OK),
        headers(9, OK),
        data(7, b"x"),
        window(0, 0),
        raw(6, 0, 0, b"short"),
        settings({2: 1}),
        headers(1, b"\x80"),
    ],
)
async def test_breaches_of_the_connection_fail_every_exchange(frame, autojump_clock):
    async with upstream() as up:
        calls = [await up.ask(), await up.ask()]
        await up.send(frame)
        assert [type(call.error) for call in calls] == [UpstreamProtocolError] * 2
        await up.over.wait()
        await up.settle()
        assert len(up.reader.goaways()) == 1
        assert not up.client.available


async def test_reset_is_raised_with_its_code(autojump_clock):
    async with upstream() as up:
        call = await up.ask()
        await up.send(rst(1, INTERNAL))
        assert type(call.error) is UpstreamReset
        assert call.error.http2_code == INTERNAL


async def test_reset_in_the_middle_of_content_is_raised_by_the_body(autojump_clock):
    async with upstream() as up:
        call = await up.ask()
        await up.send(headers(1, OK, end=False), data(1, b"half"), rst(1, 0xB))
        assert call.content == b"half"
        assert call.error.http2_code == 0xB


async def test_a_refused_stream_was_not_processed(autojump_clock):
    async with upstream() as up:
        call = await up.ask()
        await up.send(rst(1, REFUSED))
        assert type(call.error) is UpstreamUnsent
        assert up.client.available


async def test_goaway_lets_streams_below_it_finish_and_frees_those_above(autojump_clock):
    async with upstream() as up:
        calls = [await up.ask() for _ in range(3)]
        await up.send(goaway(3))
        assert [type(call.error) for call in calls] == [type(None), type(None), UpstreamUnsent]
        assert not up.client.available
        await up.send(headers(1, OK), headers(3, OK, end=False))
        assert not up.over.is_set()
        await up.send(data(3, b"end", end=True))
        assert [call.statuses for call in calls] == [[200], [200], []]
        assert calls[1].content == b"end"
        await up.over.wait()


async def test_goaway_twice_as_graceful_servers_send_it(autojump_clock):
    async with upstream() as up:
        calls = [await up.ask() for _ in range(2)]
        await up.send(goaway(2**31 - 1))
        assert [call.error for call in calls] == [None, None]
        late = await up.ask()
        assert type(late.error) is UpstreamUnsent
        await up.send(goaway(1), headers(1, OK))
        assert calls[0].statuses == [200]
        assert type(calls[1].error) is UpstreamUnsent
        await up.over.wait()


async def test_end_of_the_connection(autojump_clock):
    async with upstream() as up:
        before = await up.ask()
        during = await up.ask()
        await up.send(headers(3, OK, end=False), data(3, b"half"))
        await up.stream.aclose()
        await up.over.wait()
        await up.settle()
        assert [type(before.error), type(during.error)] == [UpstreamClosed, UpstreamClosed]
        assert during.content == b"half"
        assert up.client.closed
        assert type((await up.ask()).error) is UpstreamUnsent


async def test_reason_of_a_goaway_is_told(autojump_clock):
    async with upstream() as up:
        call = await up.ask()
        await up.send(goaway(1, 0xB))
        await up.stream.aclose()
        await call.done.wait()
        assert "ENHANCE_YOUR_CALM" in str(call.error)


async def test_what_was_never_written_is_unsent(autojump_clock):
    async with upstream() as up:
        call = await up.ask()
        up.client.engine.outbox.taken = 0  # as if the transport had taken nothing yet
        await up.stream.aclose()
        await call.done.wait()
        assert type(call.error) is UpstreamUnsent


async def test_a_bad_request_is_refused_before_anything_is_sent(autojump_clock):
    async with upstream() as up:
        call = await up.ask(get("/", ("x", "a\r\nb")))
        assert isinstance(call.error, BadRequest)
        assert [f for f in up.reader.frames if f.stream_id] == []


async def test_heads_above_the_upstreams_limit_are_refused_here(autojump_clock):
    async with upstream(values={6: 100}) as up:
        call = await up.ask(get("/", ("x", "y" * 100)))
        assert isinstance(call.error, RequestRefused)
        assert call.error.status == 431


async def test_cancelled_exchange_resets_its_stream(autojump_clock):
    async with upstream() as up:
        call = await up.ask()
        other = await up.ask()
        call.scope.cancel()
        await up.settle()
        assert up.reader.resets(1) == [CANCEL]
        assert up.client.open_streams == 1
        await up.send(headers(3, OK))
        assert other.statuses == [200]


async def test_silent_upstream_is_given_up(autojump_clock):
    async with upstream() as up:
        call = await up.ask()
        await trio.sleep(302)
        await up.settle()
        assert isinstance(call.error, IdleTimeout)
        assert up.reader.resets(1) == [CANCEL]


async def test_a_grpc_stream_may_be_silent(autojump_clock):
    async with upstream() as up:
        call = await up.ask(post(b"x", ("content-type", "application/grpc")))
        await up.send(headers(1, OK, end=False))
        await trio.sleep(4000)
        assert call.error is None
        await up.send(headers(1, [("grpc-status", "0")]))
        assert call.done.is_set()


async def test_an_upstream_may_reset_as_many_streams_as_we_open(autojump_clock):
    async with upstream() as up:
        for stream in range(1, 601, 2):
            call = await up.ask()
            await up.send(rst(stream, REFUSED))
            assert type(call.error) is UpstreamUnsent
        assert up.client.available
