"""Streams of one connection: answers, failures, windows, and how a connection ends."""

import pytest
import trio
from hyperframe.frame import DataFrame, PingFrame, SettingsFrame, WindowUpdateFrame

from linkerd_proxy.core.message import Response, Whole
from linkerd_proxy.errors import AlreadyAnswered, UpstreamReset, UpstreamUnsent
from linkerd_proxy.http.limits import Limits
from tests.http.h2.expect import CANCEL, INTERNAL, NO_ERROR, REFUSED
from tests.http.h2.frames import GET, data, get, headers, ping, post, rst
from tests.http.h2.peer import Handler, Zeros, served


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


async def test_an_upload_may_end_after_its_early_answer(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, post("/early"), end=False))
        assert peer.reader.body(1) == b"early"
        await peer.send(*[data(1, bytes(16000))] * 4, data(1, b"", end=True))
        assert peer.reader.resets(1) == []
        assert await peer.is_well()


async def test_an_upload_that_goes_on_after_its_answer_is_stopped_with_no_error(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, post("/early"), end=False))
        assert peer.reader.body(1) == b"early"
        await trio.sleep(Limits().linger + 1)
        assert peer.reader.resets(1) == [NO_ERROR]
        await peer.send(*[data(1, bytes(16000))] * 4)
        assert await peer.is_well()


async def test_a_stream_that_is_over_makes_room_before_its_task_has_ended(autojump_clock):
    done = trio.Event()

    async def linger(exchange):
        await exchange.respond(Response(200))
        await done.wait()

    async with served(Handler(linger), limits=Limits(h2_max_streams=2)) as peer:
        for stream in (1, 3, 5, 7, 9):
            await peer.send(headers(stream))
        assert [peer.reader.statuses(stream) for stream in (1, 3, 5, 7)] == [["200"]] * 4
        assert peer.reader.resets(9) == [REFUSED]  # though not without end
        done.set()
        assert await peer.is_well()


async def test_a_reset_stream_keeps_its_place_until_its_task_has_ended(autojump_clock):
    done = trio.Event()

    async def stubborn(_exchange):
        with trio.CancelScope(shield=True):
            await done.wait()

    async with served(Handler(stubborn), limits=Limits(h2_max_streams=1)) as peer:
        await peer.send(headers(1))
        await peer.send(rst(1), headers(3))
        assert peer.reader.resets(3) == [REFUSED]
        done.set()
        await peer.settle()
        await peer.send(headers(5, get("/")))
        assert peer.reader.resets(5) == []


async def test_a_client_that_expects_100_gets_it_when_its_content_is_wanted(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, post("/", ("expect", "100-continue")), end=False))
        assert peer.reader.statuses(1) == ["100"]
        await peer.send(data(1, b"abc", end=True))
        assert peer.reader.statuses(1) == ["100", "200"]
