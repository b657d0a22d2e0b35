"""How a connection ends, and tunnels on its streams."""

import trio
from hyperframe.frame import GoAwayFrame, PingFrame, RstStreamFrame

from linkerd_proxy.core.message import Response
from linkerd_proxy.errors import BadRequest, IdleTimeout
from linkerd_proxy.http.limits import Limits
from tests.http.h2.expect import NO_ERROR, PROTOCOL
from tests.http.h2.frames import data, get, goaway, headers, ping, post
from tests.http.h2.peer import Handler, served


async def test_idle_connection_ends_in_good_order(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1))
        await trio.sleep(59)
        assert not peer.done.is_set()
        await trio.sleep(3)
        await peer.done.wait()
        assert peer.reader.goaways() == [NO_ERROR]
        assert peer.failure is None


async def test_a_preface_that_does_not_come_ends_the_connection(autojump_clock):
    async with served(hello=False) as peer:
        await peer.send(b"PRI * HTTP/2.0\r\n")
        await trio.sleep(13)
        assert isinstance(peer.failure, BadRequest)


async def test_a_field_block_that_does_not_end_ends_the_connection(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, end_headers=False))
        await trio.sleep(13)
        assert isinstance(peer.failure, BadRequest)


async def test_keep_alive_asks_and_gives_up(autojump_clock):
    async with served(limits=Limits(h2_keep_alive_interval=10.0)) as peer:
        await peer.send(headers(1, get("/hang")))
        await trio.sleep(12)
        (asked,) = peer.reader.of(PingFrame)
        await peer.send(ping(asked.opaque_data, ack=True))
        await trio.sleep(8)
        assert not peer.done.is_set()
        await trio.sleep(10)
        assert isinstance(peer.failure, IdleTimeout)
        assert peer.application.running == 0


async def test_drain_warns_then_names_the_last_stream_then_lets_streams_finish(autojump_clock):
    finish = trio.Event()

    async def slow(exchange):
        if exchange.request.path == "/slow":
            await finish.wait()
        await exchange.respond(Response(200))

    async with served(Handler(slow)) as peer:
        await peer.send(headers(1, get("/slow")))
        peer.drain.start()
        await peer.settle()
        assert [(f.last_stream_id, f.error_code) for f in peer.reader.of(GoAwayFrame)] == [(2**31 - 1, 0)]
        await peer.send(headers(3))  # was under way when the warning was sent
        assert peer.reader.statuses(3) == ["200"]
        await trio.sleep(2.5)
        await peer.settle()
        assert [f.last_stream_id for f in peer.reader.of(GoAwayFrame)] == [2**31 - 1, 3]
        await peer.send(headers(5))
        assert peer.reader.statuses(5) == []
        assert not peer.done.is_set()
        finish.set()
        await peer.done.wait()
        await peer.settle()
        assert peer.reader.statuses(1) == ["200"]
        assert peer.closed
        assert peer.failure is None


async def test_drain_takes_one_round_trip_if_the_ping_is_answered(autojump_clock):
    async with served() as peer:
        peer.drain.start()
        await peer.settle()
        (farewell,) = peer.reader.of(PingFrame)
        await peer.send(ping(farewell.opaque_data, ack=True))
        await peer.done.wait()
        assert trio.current_time() < autojump_clock.current_time() + 0.5


async def test_goaway_of_the_client_lets_streams_finish(autojump_clock):
    finish = trio.Event()

    async def slow(exchange):
        await finish.wait()
        await exchange.respond(Response(200))

    async with served(Handler(slow)) as peer:
        await peer.send(headers(1), goaway())
        assert not peer.done.is_set()
        finish.set()
        await peer.done.wait()
        await peer.settle()
        assert peer.reader.statuses(1) == ["200"]


async def test_a_connection_is_ended_after_its_share_of_streams(autojump_clock):
    async with served(limits=Limits(h2_max_streams_total=3)) as peer:
        for stream in (1, 3, 5):
            await peer.send(headers(stream))
        await trio.sleep(3)
        await peer.done.wait()
        assert [peer.reader.statuses(stream) for stream in (1, 3, 5)] == [["200"]] * 3
        assert peer.reader.goaways() == [NO_ERROR, NO_ERROR]


async def test_goaway_on_an_error_names_the_last_stream_and_the_reason(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1), headers(3), data(5, b"x"))
        (last,) = peer.reader.of(GoAwayFrame)
        assert last.last_stream_id == 3
        assert last.error_code == PROTOCOL
        assert b"idle stream 5" in last.additional_data


# --- tunnels ---------------------------------------------------------------------------------------


async def tunnel(exchange):
    await exchange.respond(
        Response(101 if exchange.request.upgrade else 200, [("sec-websocket-accept", "x")], exchange.request.body)
    )


async def test_connect_is_a_tunnel(autojump_clock):
    async with served(Handler(tunnel)) as peer:
        await peer.send(headers(1, [(":method", "CONNECT"), (":authority", "db:5432")], end=False))
        assert peer.reader.statuses(1) == ["200"]
        await peer.send(data(1, b"there"))
        assert peer.reader.body(1) == b"there"
        await peer.send(data(1, b" and back", end=True))
        assert peer.reader.body(1) == b"there and back"
        assert peer.reader.ended(1)
        assert peer.reader.resets() == []
        assert peer.application.seen[0].authority == "db:5432"


async def test_websocket_is_an_extended_connect(autojump_clock):
    fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/chat"),
    ]
    async with served(Handler(tunnel)) as peer:
        await peer.send(headers(1, fields, end=False), data(1, b"frame"))
        request = peer.application.seen[0]
        assert (request.method, request.upgrade, request.path) == ("GET", "websocket", "/chat")
        assert request.headers.get("sec-websocket-key")
        (head,) = [f for f in peer.reader.frames if hasattr(f, "fields")]
        assert head.fields == [(":status", "200")]
        await peer.send(data(1, b"", end=True))
        assert peer.reader.body(1) == b"frame"
        assert peer.reader.ended(1)


async def test_resets_of_a_peer_are_one_frame_each(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, post("/", ("content-length", "3")), end=False), data(1, b"abcd"), data(1, b"more"))
        assert [f.error_code for f in peer.reader.of(RstStreamFrame)] == [PROTOCOL]
