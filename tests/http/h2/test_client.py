"""Exchanges over one connection to an upstream: answers, resets, GOAWAY, windows, and what is safe to repeat."""

import pytest
import trio
from hyperframe.frame import DataFrame, PingFrame, SettingsFrame

from linkerd_proxy.core.message import Request, Whole
from linkerd_proxy.errors import (
    BadGateway,
    IdleTimeout,
    UpstreamClosed,
    UpstreamProtocolError,
)
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.limits import Limits
from tests.http.h2.expect import CANCEL, NO_ERROR
from tests.http.h2.frames import data, headers, ping, rst, settings, window
from tests.http.h2.upstream import OK, Feed, get, post, upstream


async def test_get(autojump_clock):
    async with upstream() as up:
        call = await up.ask(get("/p?q", ("x", "y")))
        (asked,) = [f for f in up.reader.frames if hasattr(f, "fields")]
        assert asked.fields == [
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/p?q"),
            ("x", "y"),
        ]
        assert "END_STREAM" in asked.flags
        await up.send(headers(1, [*OK, ("content-length", "2")], end=False), data(1, b"ok", end=True))
        assert call.done.is_set()
        assert (call.statuses, call.content, call.error) == ([200], b"ok", None)
        assert call.responses[0].body.length == 2
        assert "content-length" not in call.responses[0].headers
        assert up.reader.resets() == []


async def test_greeting_forbids_push(autojump_clock):
    async with upstream() as up:
        assert up.reader.of(SettingsFrame)[0].settings == {2: 0, 6: 16384}


async def test_exchanges_may_begin_before_the_settings_came(autojump_clock):
    async with upstream(greet=False) as up:
        call = await up.ask()
        assert len([f for f in up.reader.frames if hasattr(f, "fields")]) == 1
        await up.send(settings(), headers(1, OK))
        assert call.statuses == [200]


async def test_a_whole_body_leaves_with_its_head(autojump_clock):
    async with upstream() as up:
        await up.ask(post(b"abc"))
        head, content = [f for f in up.reader.frames if f.stream_id == 1]
        assert ("content-length", "3") in head.fields
        assert content.data == b"abc"
        assert "END_STREAM" in content.flags


async def test_request_trailers_are_sent(autojump_clock):
    async with upstream() as up:
        await up.ask(post(Whole(b"abc", Headers([("x-sum", "1")]))))
        assert [f.fields for f in up.reader.frames if hasattr(f, "fields")][1] == [("x-sum", "1")]
        assert up.reader.ended(1)


async def test_upload_and_response_run_at_once(autojump_clock):
    feed = Feed()
    async with upstream() as up:
        call = await up.ask(post(feed.body()))
        await feed.send.send(b"one")
        await up.send(headers(1, OK, end=False), data(1, b"1"))
        assert (up.reader.body(1), call.content) == (b"one", b"1")
        await feed.send.send(b"two")
        await up.send(data(1, b"2"))
        assert (up.reader.body(1), call.content) == (b"onetwo", b"12")
        await feed.send.aclose()
        await up.settle()
        assert up.reader.ended(1)
        await up.send(headers(1, [("grpc-status", "0")]))
        assert call.done.is_set()
        assert call.trailers.get("grpc-status") == "0"
        assert up.reader.resets() == []


async def test_a_response_that_ends_early_ends_the_upload(autojump_clock):
    feed = Feed()
    async with upstream() as up:
        call = await up.ask(post(feed.body()))
        await up.send(headers(1, [(":status", "413")]))
        assert call.done.is_set()
        assert (call.statuses, call.error) == ([413], None)
        assert up.reader.resets(1) == [CANCEL]


async def test_no_error_reset_after_a_whole_response_is_fine(autojump_clock):
    feed = Feed()
    async with upstream() as up:
        call = await up.ask(post(feed.body()))
        await up.send(headers(1, OK, end=False) + data(1, b"x", end=True) + rst(1, NO_ERROR))
        assert (call.content, call.error) == (b"x", None)
        assert up.reader.resets() == []


async def test_informational_responses_pass(autojump_clock):
    async with upstream() as up:
        call = await up.ask()
        await up.send(headers(1, [(":status", "103"), ("link", "</a>")], end=False), headers(1, OK))
        assert call.statuses == [103, 200]


async def test_expect_waits_for_the_upstream(autojump_clock):
    feed = Feed()
    async with upstream() as up:
        await up.ask(post(feed.body(), ("expect", "100-continue")))
        await feed.send.send(b"abc")
        await up.settle()
        assert up.reader.body(1) == b""
        await up.send(headers(1, [(":status", "100")], end=False))
        assert up.reader.body(1) == b"abc"


async def test_expect_does_not_wait_for_ever(autojump_clock):
    feed = Feed()
    async with upstream() as up:
        await up.ask(post(feed.body(), ("expect", "100-continue")))
        await feed.send.send(b"abc")
        await trio.sleep(1.1)
        await up.settle()
        assert up.reader.body(1) == b"abc"


@pytest.mark.parametrize("status", ["204", "304"])
async def test_responses_without_content(status, autojump_clock):
    async with upstream() as up:
        call = await up.ask()
        await up.send(headers(1, [(":status", status), ("content-length", "5")]))
        assert (call.statuses, call.error) == ([int(status)], None)


async def test_answer_to_head_keeps_its_length(autojump_clock):
    async with upstream() as up:
        call = await up.ask(Request("HEAD", "/", authority="a", version="2"))
        await up.send(headers(1, [*OK, ("content-length", "5")]))
        assert call.responses[0].declared_length == 5
        assert call.error is None


# --- limits and windows -----------------------------------------------------------------------------


async def test_available_follows_the_upstreams_limit(autojump_clock):
    async with upstream(values={3: 2}) as up:
        first = await up.ask()
        assert up.client.available
        await up.ask()
        assert not up.client.available
        await up.send(headers(1, OK))
        assert first.done.is_set()
        assert up.client.available


async def test_a_client_is_replaced_after_its_share_of_streams(autojump_clock):
    async with upstream(limits=Limits(h2_client_streams_total=2)) as up:
        calls = [await up.ask(), await up.ask()]
        assert not up.client.available
        await up.send(headers(1, OK), headers(3, OK))
        assert [call.statuses for call in calls] == [[200], [200]]
        await up.over.wait()


async def test_upload_waits_for_the_window(autojump_clock):
    async with upstream(values={4: 4}) as up:
        call = await up.ask(post(b"0123456789"))
        assert up.reader.body(1) == b"0123"
        await up.send(window(1, 100))
        assert up.reader.body(1) == b"0123456789"
        assert up.reader.ended(1)
        await up.send(headers(1, OK))
        assert call.statuses == [200]


async def test_upload_that_is_stalled_fails(autojump_clock):
    async with upstream(values={4: 4}) as up:
        call = await up.ask(post(b"0123456789"))
        await trio.sleep(62)
        await up.settle()
        assert isinstance(call.error, IdleTimeout)
        assert up.reader.resets(1) == [CANCEL]


async def test_one_slow_reader_does_not_block_the_others(autojump_clock):
    async with upstream() as up:
        slow, fast = await up.ask(), await up.ask()
        slow.reading = trio.Event()
        await up.send(headers(1, OK, end=False), *[data(1, bytes(16000))] * 4)
        await up.send(headers(3, OK, end=False), *[data(3, bytes(16000))] * 4)
        await up.send(*[data(3, bytes(16000))] * 4, data(3, end=True))
        assert len(fast.content) == 128_000
        assert slow.content == b""
        slow.reading.set()
        await up.send(data(1, b"", end=True))
        assert len(slow.content) == 64_000


async def test_more_than_the_window_is_a_breach(autojump_clock):
    async with upstream() as up:
        call = await up.ask()
        call.reading = trio.Event()
        await up.send(headers(1, OK, end=False), *[data(1, bytes(16000))] * 5)
        assert up.reader.resets(1) == [3]
        call.reading.set()
        await call.done.wait()
        assert isinstance(call.error, UpstreamProtocolError)
        assert len(call.content) <= 65_535


async def test_keep_alive_asks_while_there_are_exchanges(autojump_clock):
    async with upstream(limits=Limits(h2_keep_alive_interval=10.0)) as up:
        await trio.sleep(30)
        assert up.reader.of(PingFrame) == []
        call = await up.ask()
        await trio.sleep(12)
        (asked,) = up.reader.of(PingFrame)
        await up.send(ping(asked.opaque_data, ack=True))
        await trio.sleep(20)
        assert isinstance(call.error, UpstreamClosed)
        assert up.client.closed


async def test_retired_client_finishes_and_ends(autojump_clock):
    async with upstream() as up:
        call = await up.ask()
        up.client.retire()
        assert not up.client.available
        await up.send(headers(1, OK))
        assert call.statuses == [200]
        await up.over.wait()
        await up.settle()
        assert up.reader.goaways() == [NO_ERROR]


# --- tunnels ----------------------------------------------------------------------------------------


async def test_websocket_becomes_an_extended_connect(autojump_clock):
    feed = Feed()
    request = Request(
        "GET",
        "/chat",
        [("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")],
        feed.body(),
        authority="a",
        upgrade="websocket",
    )
    async with upstream(values={8: 1}) as up:
        call = await up.ask(request)
        await feed.send.send(b"early")
        await up.settle()
        (asked,) = [f for f in up.reader.frames if hasattr(f, "fields")]
        assert (":protocol", "websocket") in asked.fields
        assert (":method", "CONNECT") in asked.fields
        assert "sec-websocket-key" not in dict(asked.fields)
        assert up.reader.of(DataFrame) == []  # nothing before the upstream agreed
        await up.send(headers(1, OK, end=False), data(1, b"hello"))
        assert call.statuses == [101]
        assert call.responses[0].headers.get("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert up.reader.body(1) == b"early"
        await feed.send.aclose()
        await up.send(data(1, b" bye", end=True))
        assert call.content == b"hello bye"
        await call.done.wait()
        assert up.reader.ended(1)
        assert up.reader.resets() == []


async def test_websocket_needs_an_upstream_that_offers_it(autojump_clock):
    async with upstream() as up:
        call = await up.ask(Request("GET", "/", authority="a", upgrade="websocket"))
        assert isinstance(call.error, BadGateway)


async def test_a_refused_tunnel_gets_no_bytes(autojump_clock):
    feed = Feed()
    async with upstream() as up:
        call = await up.ask(Request("CONNECT", "", [], feed.body(), authority="a:1", version="2"))
        await feed.send.send(b"early")
        await up.send(headers(1, [(":status", "403")]))
        assert call.statuses == [403]
        assert up.reader.of(DataFrame) == []
