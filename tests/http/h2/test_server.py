"""Streams of one connection: answers, failures, windows, and how a connection ends."""

import pytest
import trio
from hyperframe.frame import DataFrame, GoAwayFrame, PingFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from linkerd_proxy.core.message import Response, Whole
from linkerd_proxy.errors import AlreadyAnswered, BadRequest, IdleTimeout, UpstreamReset, UpstreamUnsent
from linkerd_proxy.http.limits import Limits
from tests.http.h2.expect import CANCEL, INTERNAL, NO_ERROR, PROTOCOL, REFUSED
from tests.http.h2.frames import GET, data, get, goaway, headers, ping, post, rst, settings, window
from tests.http.h2.peer import Application, Zeros, served


class Handler(Application):
    """An application of one function."""

    def __init__(self, function):
        super().__init__()
        self.serve = function


async def test_greeting_says_our_limits(autojump_clock):
    async with served() as peer:
        first = peer.reader.of(SettingsFrame)[0]
        assert first.settings == {3: 100, 6: 16384, 8: 1}
        assert peer.reader.of(WindowUpdateFrame)[0].window_increment == 1024 * 1024 - 65_535
        assert any("ACK" in f.flags for f in peer.reader.of(SettingsFrame))


async def test_ping_is_answered_with_its_bytes(autojump_clock):
    async with served() as peer:
        reader = await peer.send(ping(b"abcdefgh"))
        (answer,) = reader.of(PingFrame)
        assert "ACK" in answer.flags
        assert answer.opaque_data == b"abcdefgh"


async def test_request_reaches_the_service_as_it_was_sent(autojump_clock):
    async with served() as peer:
        await peer.send(
            headers(1, post("/a?b=c", ("x-y", "z"), ("te", "trailers"), ("content-length", "3")), end=False)
        )
        await peer.send(data(1, b"abc", end=True))
        (request,) = peer.application.seen
        assert (request.method, request.path, request.authority, request.scheme) == (
            "POST",
            "/a?b=c",
            "example.com",
            "http",
        )
        assert request.version == "2"
        assert list(request.headers) == [("x-y", "z"), ("te", "trailers")]
        assert request.body.length == 3


async def test_equal_heads_do_not_share_their_headers(autojump_clock):
    async def change(exchange):
        assert "added" not in exchange.request.headers
        exchange.request.headers.add("added", "1")
        await exchange.respond(Response(200))

    async with served(Handler(change)) as peer:
        for stream in (1, 3, 5):
            await peer.send(headers(stream))
        assert [peer.reader.statuses(stream) for stream in (1, 3, 5)] == [["200"]] * 3


async def test_upload_and_answer_run_at_once(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, post("/echo"), end=False))
        assert peer.reader.statuses(1) == ["200"]
        for word in (b"one", b"two"):
            await peer.send(data(1, word))
            assert peer.reader.body(1).endswith(word)
        await peer.send(data(1, b"end", end=True))
        assert peer.reader.body(1) == b"onetwoend"
        assert peer.reader.ended(1)
        assert peer.reader.resets() == []


async def test_trailers_go_both_ways(autojump_clock):
    async def echo(exchange):
        content = await exchange.request.body.read()
        trailers = exchange.request.body.trailers
        assert trailers is not None
        await exchange.respond(Response(200, [], Whole(content, trailers.copy())))

    async with served(Handler(echo)) as peer:
        await peer.send(
            headers(1, post(), end=False), data(1, b"abc"), headers(1, [("x-sum", "9"), ("content-length", "4")])
        )
        last = [f for f in peer.reader.frames if f.stream_id == 1][-1]
        assert last.fields == [("x-sum", "9")]
        assert "END_STREAM" in last.flags


async def test_informational_responses_come_first(autojump_clock):
    async def hints(exchange):
        await exchange.respond(Response(103, [("link", "</a>")]))
        await exchange.respond(Response(200))

    async with served(Handler(hints)) as peer:
        await peer.send(headers(1))
        assert peer.reader.statuses(1) == ["103", "200"]


async def test_seventeen_informational_responses_are_too_many(autojump_clock):
    async def hints(exchange):
        for _ in range(17):
            await exchange.respond(Response(103))

    async with served(Handler(hints)) as peer:
        await peer.send(headers(1))
        assert peer.reader.statuses(1) == ["103"] * 16 + ["502"]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_answers_without_content(method, status, autojump_clock):
    async def answer(exchange):
        await exchange.respond(Response(status, [], declared_length=9))

    async with served(Handler(answer)) as peer:
        await peer.send(headers(1, [(":method", method), *GET[1:]]))
        assert peer.reader.of(DataFrame) == []
        assert peer.reader.ended(1)
        (head,) = [f for f in peer.reader.frames if hasattr(f, "fields")]
        assert dict(head.fields).get("content-length") == (None if status == 204 else "9")


async def test_second_answer_is_a_bug_of_that_stream_alone(autojump_clock):
    caught = []

    async def twice(exchange):
        await exchange.respond(Response(200))
        with pytest.raises(AlreadyAnswered) as info:
            await exchange.respond(Response(200))
        caught.append(info.value)

    async with served(Handler(twice)) as peer:
        await peer.send(headers(1))
        assert peer.reader.statuses(1) == ["200"]
        assert caught


async def test_unanswered_is_502(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, get("/silent")))
        assert peer.reader.statuses(1) == ["502"]
        assert await peer.is_well()


async def test_an_exception_is_500_for_its_stream_only(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, get("/hang")), headers(3, get("/fail")))
        assert peer.reader.statuses(3) == ["500"]
        assert peer.reader.resets(1) == []
        assert peer.application.running == 1
        assert await peer.is_well()


async def test_a_grpc_call_that_fails_gets_a_status_in_trailers_only(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, post("/fail", ("content-type", "application/grpc"))))
        (head,) = [f for f in peer.reader.frames if hasattr(f, "fields")]
        assert dict(head.fields)["grpc-status"] == "13"
        assert peer.reader.statuses(1) == ["200"]


class Broken(Zeros):
    """A body that fails half-way."""

    def __init__(self, error):
        super().__init__(100_000, 10)
        self.error = error

    async def pull(self):
        if self.pulled:
            raise self.error
        return await super().pull()


async def test_failure_in_the_middle_of_a_body_resets_the_stream_before_it_goes_up(autojump_clock):
    seen = []

    async def answer(exchange):
        try:
            await exchange.respond(Response(200, [], Broken(RuntimeError("lost"))))
        except RuntimeError as error:
            seen.append(error)
            raise

    async with served(Handler(answer)) as peer:
        await peer.send(headers(1))
        assert peer.reader.resets(1) == [INTERNAL]
        assert not peer.reader.ended(1)
        assert len(seen) == 1


async def test_an_upstreams_reset_code_passes(autojump_clock):
    async def answer(exchange):
        error = UpstreamReset("reset")
        error.http2_code = 0xB
        if exchange.request.path == "/late":
            await exchange.respond(Response(200, [], Broken(error)))
        raise error

    async with served(Handler(answer)) as peer:
        await peer.send(headers(1), headers(3, get("/late")))
        assert peer.reader.resets(1) == [0xB]
        assert peer.reader.resets(3) == [0xB]


async def test_what_was_never_sent_is_refused(autojump_clock):
    async def answer(_exchange):
        raise UpstreamUnsent("goaway")

    async with served(Handler(answer)) as peer:
        await peer.send(headers(1))
        assert peer.reader.resets(1) == [REFUSED]


@pytest.mark.parametrize("size", [5, 15])
async def test_a_body_of_another_length_than_declared_is_reset(size, autojump_clock):
    async def answer(exchange):
        body = Zeros(size)
        body.length = 10
        await exchange.respond(Response(200, [], body))

    async with served(Handler(answer)) as peer:
        await peer.send(headers(1))
        assert peer.reader.resets(1) == [INTERNAL]


async def test_a_bad_header_of_a_layer_is_an_error_before_anything_is_sent(autojump_clock):
    async def answer(exchange):
        await exchange.respond(Response(200, [("x", "a\r\nb: c")]))

    async with served(Handler(answer)) as peer:
        await peer.send(headers(1))
        assert peer.reader.statuses(1) == ["502"]


async def test_clients_reset_cancels_that_exchange_only(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, get("/hang")), headers(3, get("/hang")))
        await peer.send(rst(1, CANCEL))
        assert peer.application.running == 1
        assert peer.application.cancelled == 1
        assert peer.reader.resets() == []


async def test_end_of_the_connection_cancels_all_its_exchanges(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, get("/hang")), headers(3, post("/hang"), end=False))
        await peer.stream.send_eof()
        await peer.done.wait()
        assert peer.application.running == 0
        assert peer.application.cancelled == 2
        assert peer.failure is None


async def test_early_answer_to_an_upload_ends_with_no_error(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, post("/early"), end=False))
        assert peer.reader.body(1) == b"early"
        assert peer.reader.resets(1) == [NO_ERROR]
        await peer.send(*[data(1, bytes(16000))] * 4)
        assert await peer.is_well()


# --- flow control --------------------------------------------------------------------------------


async def test_content_waits_for_the_streams_window(autojump_clock):
    async with served() as peer:
        await peer.send(settings({4: 10}), headers(1, get("/big")))
        assert peer.reader.body(1) == bytes(10)
        await peer.send(window(1, 1))
        assert len(peer.reader.body(1)) == 11
        await peer.send(settings({4: 300_000}), window(0, 300_000))
        assert len(peer.reader.body(1)) == 300_000
        assert peer.reader.ended(1)


async def test_one_stream_without_a_window_does_not_block_others(autojump_clock):
    async with served() as peer:
        await peer.send(settings({4: 0}), headers(1, get("/big")), settings({4: 65_535}), window(0, 2**20))
        await peer.send(settings({4: 100}), headers(3, get("/big")))
        assert await peer.is_well()


async def test_connection_window_is_shared_in_turns(autojump_clock):
    async with served() as peer:
        await peer.send(settings({4: 2**20}), *[headers(stream, get("/big")) for stream in (1, 3, 5)])
        assert sum(len(peer.reader.body(stream)) for stream in (1, 3, 5)) == 65_535
        for _ in range(6):
            await peer.send(window(0, 49_152))
        sizes = [len(peer.reader.body(stream)) for stream in (1, 3, 5)]
        assert sum(sizes) == 65_535 + 6 * 49_152
        assert min(sizes) >= 75_000  # about a third of what came later; a chunk may end with a short turn


async def test_a_cancelled_sender_passes_its_turn_on(autojump_clock):
    async with served() as peer:
        await peer.send(settings({4: 2**20}), *[headers(stream, get("/big")) for stream in (1, 3, 5)])
        await peer.send(rst(1), rst(3))
        await peer.send(window(0, 2**20))
        assert peer.reader.ended(5)
        assert len(peer.reader.body(5)) == 300_000


async def test_windows_open_only_when_content_is_pulled(autojump_clock):
    go = trio.Event()

    async def slow(exchange):
        await go.wait()
        await exchange.request.body.read()
        await exchange.respond(Response(200))

    async with served(Handler(slow)) as peer:
        await peer.send(headers(1, post(), end=False), *[data(1, bytes(16000))] * 4)
        before = len(peer.reader.of(WindowUpdateFrame))
        go.set()
        await peer.settle()
        updates = peer.reader.of(WindowUpdateFrame)[before:]
        assert [(f.stream_id, f.window_increment) for f in updates] == [(1, 64_000)]
        await peer.send(data(1, bytes(16000), end=True))
        assert peer.reader.statuses(1) == ["200"]


async def test_reset_streams_give_their_bytes_back_to_the_connection(autojump_clock):
    async with served(limits=Limits(h2_resets_per_second=1000, h2_early_resets=1000)) as peer:
        for stream in range(1, 201, 2):
            await peer.send(headers(stream, post("/hang"), end=False), *[data(stream, bytes(16000))] * 4, rst(stream))
        back = sum(f.window_increment for f in peer.reader.of(WindowUpdateFrame, 0)[1:])
        assert 0 <= 100 * 64_000 - back < 2**18
        assert await peer.is_well()


async def test_no_more_is_pulled_than_fits_the_buffers(autojump_clock):
    body = Zeros(10_000_000)

    async def answer(exchange):
        await exchange.respond(Response(200, [], body))

    async with served(Handler(answer)) as peer:
        await peer.send(settings({4: 2**30}), window(0, 2**30))
        peer.stream.receive_stream.close()  # the client reads nothing more
        await peer.send(headers(1))
        assert body.pulled <= 500_000


async def test_write_stall_of_a_stream_ends_it(autojump_clock):
    async with served() as peer:
        await peer.send(settings({4: 10}), headers(1, get("/big")))
        await trio.sleep(58)
        assert peer.reader.resets() == []
        await trio.sleep(4)
        await peer.settle()
        assert peer.reader.resets(1) == [CANCEL]
        assert peer.application.running == 0
        assert await peer.is_well()


async def test_slow_upload_is_answered_408(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, post(), end=False), data(1, b"x"))
        await trio.sleep(7)
        await peer.settle()
        assert peer.reader.statuses(1) == ["408"]
        assert peer.application.cancelled == 1
        assert await peer.is_well()


async def test_a_grpc_upload_may_be_silent(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, post("/", ("content-type", "application/grpc")), end=False))
        await trio.sleep(1000)
        assert peer.application.running == 1
        await peer.send(data(1, b"abc", end=True))
        assert peer.reader.statuses(1) == ["200"]


# --- the connection's life -------------------------------------------------------------------------


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
