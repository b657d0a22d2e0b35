"""Http() on HTTP/1 connections, by what goes over the wire."""

import re

import pytest
import trio
import trio.testing

from linkerd_proxy.core.message import Body, Response, Streamed, Whole
from linkerd_proxy.errors import AlreadyAnswered, NoRoute, UpstreamClosed
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.server import Http
from linkerd_proxy.testing import EOF, RESET, Script, memory_connection

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def ok(exchange):
    await exchange.respond(Response(body=b"ok"))


def chunks(*pieces, length=None, trailers=None, error=None):
    async def generate():
        for piece in pieces:
            yield piece
        body.trailers = trailers
        if error is not None:
            raise error

    body = Streamed(generate(), length)
    return body


# --- requests ---


async def test_keep_alive_serves_one_request_after_the_other(serving, autojump_clock):
    served = await serving()
    script = Script()
    for path in (b"/1", b"/22", b"/333"):
        answer = b"GET " + path + b" a "
        script = script >> b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n"
        script = script << b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer
    await (script >> EOF << EOF).play(served.client)
    await served.over.wait()


class _Ended(trio.abc.HalfCloseableStream):
    """A client that asks once and then ends, or breaks off, and of whom nothing more is to be had."""

    def __init__(self, broken):
        self.broken = broken
        self.waiting = [GET]
        self.asked = 0
        self.sent = b""

    async def receive_some(self, max_bytes=None):
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if self.waiting:
            return self.waiting.pop()
        if self.broken:
            raise trio.BrokenResourceError
        return b""

    async def send_all(self, data):
        await trio.lowlevel.checkpoint()
        self.sent += data

    async def wait_send_all_might_not_block(self):
        await trio.lowlevel.checkpoint()

    async def send_eof(self):
        raise AssertionError("whoever accepted the connection closes it at once")

    async def aclose(self):
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("broken", [False, True])
async def test_a_client_whose_end_has_come_is_not_lingered_for(broken):
    connection = memory_connection()[1]
    stream = connection.stream = _Ended(broken)
    async with Http().open(ok) as serve:
        await serve(connection)
    assert stream.sent.startswith(b"HTTP/1.1 200 OK")
    assert stream.asked == 2


async def test_bodies_come_whole_streamed_and_in_chunks(serving, autojump_clock):
    for split in (None, 1, 3):
        served = await serving()
        await (
            Script()
            >> b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
            << b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\nPOST /p a hello"
            >> b"POST /q HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
            << b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\nPOST /q a hello"
        ).play(served.client, split=split)
        await served.client.aclose()


async def test_request_trailers_are_filtered(serving, autojump_clock):
    seen = []

    async def look(exchange):
        await exchange.request.body.read()
        seen.append(exchange.request.body.trailers)
        await ok(exchange)

    served = await serving(look)
    await (
        Script() >> b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
        b"X-Sum: 1\r\nHost: evil\r\nContent-Length: 9\r\nAuthorization: x\r\nl5d-client-id: x\r\nl5d_client_id: y\r\n\r\n"
        << OK
    ).play(served.client)
    assert seen == [Headers([("x-sum", "1")])]


async def test_pipelined_requests_are_served_in_order_one_at_a_time(serving, autojump_clock):
    running = 0

    async def slow(exchange):
        nonlocal running
        assert running == 0
        running += 1
        await trio.sleep(1)
        running -= 1
        await exchange.respond(Response(body=exchange.request.path.encode()))

    served = await serving(slow)
    await (
        Script()
        >> b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n"
        << b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/a"
        << b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/b"
    ).play(served.client)


async def test_hop_by_hop_fields_are_taken_out(serving, autojump_clock):
    seen = []

    async def look(exchange):
        seen.append(exchange.request)
        await ok(exchange)

    served = await serving(look)
    await (
        Script()
        >> b"GET / HTTP/1.1\r\nHost: a\r\nConnection: X-One, l5d-x\r\nX-One: 1\r\nX-Two: 2\r\nconnection: x-two, host\r\n"
        b"Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\nTE: trailers, gzip\r\nl5d-x: 1\r\nX-Three: 3\r\n\r\n" << OK
    ).play(served.client)
    (request,) = seen
    assert request.headers == Headers([("l5d-x", "1"), ("x-three", "3"), ("te", "trailers")])
    assert request.authority == "a"


async def test_100_is_sent_when_the_body_is_first_pulled(serving, autojump_clock):
    pulled = trio.Event()

    async def late(exchange):
        await trio.sleep(5)
        pulled.set()
        assert await exchange.request.body.read() == b"hey"
        await ok(exchange)

    served = await serving(late)
    await served.client.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert await served.client.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert pulled.is_set()
    await (Script() >> b"hey" << OK).play(served.client)


async def test_a_refused_expectation_ends_the_connection(serving, autojump_clock):
    async def no(exchange):
        await exchange.respond(Response(401))

    served = await serving(no)
    await (
        Script()
        >> b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
        << b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"
        << EOF
    ).play(served.client)


async def test_an_unread_body_is_drained_up_to_a_limit(serving, autojump_clock):
    served = await serving(ok)
    await (
        Script() >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n" << OK >> b"x" * 30000 >> GET << OK
    ).play(served.client)
    served = await serving(ok, limits=Limits(max_unread=1000))
    await (
        Script() >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n" << OK >> b"x" * 30000 << EOF
    ).play(served.client)
    served = await serving(ok, limits=Limits(max_unread=1000))
    await (
        Script()
        >> b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        << OK
        >> b"7d0\r\n" + b"x" * 2000 + b"\r\n"
        << EOF
    ).play(served.client)


async def test_http_1_0(serving, autojump_clock):
    served = await serving()
    await (
        Script() >> b"GET /x HTTP/1.0\r\n\r\n" << b"HTTP/1.0 200 OK\r\ncontent-length: 8\r\n\r\nGET /x  " << EOF
    ).play(served.client)
    served = await serving(ok)
    old = b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok"
    keep = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    await (Script() >> keep << old >> keep << old).play(served.client)

    async def stream(exchange):
        await exchange.respond(Response(103))
        await exchange.respond(Response(body=chunks(b"a", b"b")))

    served = await serving(stream)
    await (Script() >> keep << b"HTTP/1.0 200 OK\r\n\r\nab" << EOF).play(served.client)


async def test_connection_close_is_honoured(serving, autojump_clock):
    served = await serving(ok)
    await (
        Script()
        >> b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n"
        << b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
        << EOF
    ).play(served.client)


async def test_a_layer_may_close_the_connection_with_its_answer(serving, autojump_clock):
    async def bye(exchange):
        await exchange.respond(Response(503, [("connection", "close")]))

    served = await serving(bye)
    await (
        Script() >> GET << b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" << EOF
    ).play(served.client)


# --- responses ---


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [204, 304, 200])
async def test_bodyless_responses(serving, autojump_clock, method, status):
    async def answer(exchange):
        await exchange.respond(Response(status, [("x-a", "b")], declared_length=55))

    served = await serving(answer)
    await served.client.send_all(f"{method} / HTTP/1.1\r\nhost: a\r\n\r\n".encode() + GET.replace(b"GET", b"HEAD"))
    await trio.testing.wait_all_tasks_blocked()
    heard = await served.client.receive_some()
    head = heard.split(b"\r\n\r\n")[0]
    declared = {(204, "GET"): None, (204, "HEAD"): b"55", (200, "GET"): b"0"}.get((status, method), b"55")
    found = re.search(rb"content-length: (\d+)", head)
    assert (found[1] if found else None) == declared
    assert b"transfer-encoding" not in heard
    assert heard.count(b"HTTP/1.1 ") == 2


async def test_unknown_length_is_chunked_with_trailers_for_who_wants_them(serving, autojump_clock):
    async def answer(exchange):
        trailers = Headers([("grpc-status", "0"), ("content-length", "3")])
        await exchange.respond(Response(body=chunks(b"abc", b"d" * 16, trailers=trailers)))

    served = await serving(answer)
    body = b"3\r\nabc\r\n10\r\n" + b"d" * 16 + b"\r\n0\r\n"
    await (
        Script()
        >> GET
        << b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body + b"\r\n"
        >> GET.replace(b"host", b"te: trailers\r\nhost")
        << b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body + b"grpc-status: 0\r\n\r\n"
    ).play(served.client)


async def test_a_whole_body_with_trailers(serving, autojump_clock):
    async def answer(exchange):
        await exchange.respond(Response(body=Whole(b"abc", Headers([("x-sum", "1")]))))

    served = await serving(answer)
    await (
        Script()
        >> GET
        << b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"
        >> GET.replace(b"host", b"te: trailers\r\nhost")
        << b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"
    ).play(served.client)


async def test_head_and_small_body_leave_in_one_write(serving, autojump_clock):
    served = await serving(ok)
    await served.client.send_all(GET)
    assert await served.client.receive_some() == OK


async def test_a_large_body_arrives(serving, autojump_clock):
    async def answer(exchange):
        await exchange.respond(Response(body=b"x" * 700_000))

    served = await serving(answer)
    await (Script() >> GET << b"HTTP/1.1 200 OK\r\ncontent-length: 700000\r\n\r\n" + b"x" * 700_000).play(served.client)


async def test_informational_responses_come_first(serving, autojump_clock):
    async def answer(exchange):
        await exchange.respond(Response(103, [("link", "</s.css>")]))
        await ok(exchange)

    served = await serving(answer)
    await (Script() >> GET << b"HTTP/1.1 103 Early Hints\r\nlink: </s.css>\r\n\r\n" + OK).play(served.client)


async def test_too_many_informational_responses_are_a_bad_gateway(serving, autojump_clock):
    async def answer(exchange):
        while True:
            await exchange.respond(Response(103))

    served = await serving(answer)
    await served.client.send_all(GET)
    heard = await served.everything()
    assert heard.count(b"HTTP/1.1 103") == 16
    assert b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n" in heard


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (lambda: chunks(b"ab", length=3), b"content-length: 3\r\n\r\nab"),
        (lambda: chunks(b"ab", b"cd", length=3), b"content-length: 3\r\n\r\nab"),
        (lambda: chunks(b"ab", error=UpstreamClosed("gone")), b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n"),
    ],
    ids=["short", "long", "failed"],
)
async def test_a_response_that_fails_half_way_never_looks_complete(serving, autojump_clock, caplog, body, said):
    async def answer(exchange):
        await exchange.respond(Response(body=body()))

    served = await serving(answer)
    await (Script() >> GET << b"HTTP/1.1 200 OK\r\n" + said << RESET).play(served.client)
    assert "from 127.0.0.1" in caplog.text


async def test_the_bodys_own_error_passes_through_respond(serving, autojump_clock):
    caught = []
    failure = UpstreamClosed("gone")

    async def answer(exchange):
        try:
            await exchange.respond(Response(body=chunks(error=failure)))
        except UpstreamClosed as error:
            caught.append(error)
            raise

    served = await serving(answer)
    await served.client.send_all(GET)
    await served.over.wait()
    assert caught == [failure]


# --- the service's mistakes ---


@pytest.mark.parametrize(
    ("error", "status"), [(NoRoute("no"), 404), (ValueError("bug"), 500), (UpstreamClosed("gone"), 502)]
)
async def test_an_error_before_the_answer_is_an_empty_answer(serving, autojump_clock, caplog, error, status):
    async def fail(exchange):
        raise error

    served = await serving(fail)
    await served.client.send_all(GET)
    heard = await served.everything()
    await served.client.aclose()
    await served.over.wait()
    assert re.fullmatch(rb"HTTP/1\.1 %d [A-Za-z ]+\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status, heard)
    assert len(caplog.records) == 1


async def test_an_unanswered_exchange_is_a_bad_gateway(serving, autojump_clock, caplog):
    async def nothing(exchange):
        pass

    served = await serving(nothing)
    await served.client.send_all(GET)
    assert (await served.everything()).startswith(b"HTTP/1.1 502 ")
    await served.client.aclose()
    await served.over.wait()
    assert "NA " in caplog.text


async def test_a_second_answer_is_a_bug(serving, autojump_clock):
    caught = []

    async def twice(exchange):
        await ok(exchange)
        with pytest.raises(AlreadyAnswered) as info:
            await ok(exchange)
        caught.append(info.value)

    served = await serving(twice)
    await (Script() >> GET << OK >> GET << OK).play(served.client)
    assert len(caught) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x\r\ny", "z"),
        ("x", "a\r\nset-cookie: b"),
        ("content-length", "3"),
        ("transfer-encoding", "chunked"),
        ("x y", ""),
    ],
)
async def test_a_layer_cannot_smuggle_fields(serving, autojump_clock, name, value):
    async def answer(exchange):
        await exchange.respond(Response(200, [(name, value)]))

    served = await serving(answer)
    await served.client.send_all(GET)
    assert (await served.everything()).startswith(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n")


async def test_a_bad_response_can_still_be_answered_by_a_layer(serving, autojump_clock):
    async def answer(exchange):
        try:
            await exchange.respond(Response(200, [("x", "\n")]))
        except Exception:
            await ok(exchange)

    served = await serving(answer)
    await (Script() >> GET << OK).play(served.client)


# --- time ---


async def test_a_slow_head_gets_408_at_the_absolute_deadline(serving, autojump_clock):
    served = await serving()
    started = trio.current_time()

    async def dribble():
        for byte in b"GET / HTTP/1.1\r\nhost: " + b"a" * 100:
            try:
                await served.client.send_all(bytes([byte]))
            except trio.BrokenResourceError:
                return
            await trio.sleep(0.5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dribble)
        heard = await served.everything()
        nursery.cancel_scope.cancel()
    assert heard.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert trio.current_time() - started <= 10 + 1 + 2 + 0.5  # the deadline, a sweep, lingering


async def test_silence_is_closed_without_a_word(serving, autojump_clock):
    served = await serving()
    started = trio.current_time()
    assert await served.everything() == b""
    assert 10 <= trio.current_time() - started <= 12


async def test_an_idle_connection_is_closed_after_a_minute(serving, autojump_clock):
    served = await serving(ok)
    await (Script() >> GET << OK).play(served.client)
    started = trio.current_time()
    assert await served.everything() == b""
    assert 60 <= trio.current_time() - started <= 62


@pytest.mark.parametrize("interval", [100.0, 1.0])
async def test_a_slow_body_gets_408(serving, autojump_clock, interval):
    served = await serving()
    await served.client.send_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n")
    started = trio.current_time()

    async def dribble():
        while True:
            await trio.sleep(interval)
            try:
                await served.client.send_all(b"x")
            except trio.BrokenResourceError:
                return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dribble)
        heard = await served.everything()
        nursery.cancel_scope.cancel()
    assert heard.startswith(b"HTTP/1.1 408 ")
    assert trio.current_time() - started < 12


async def test_a_slow_service_is_no_slow_body(serving, autojump_clock):
    async def slow(exchange):
        async for _ in exchange.request.body:
            await trio.sleep(100)
        await ok(exchange)

    served = await serving(slow)
    await served.client.send_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n")
    for byte in (b"x", b"y", b"z"):
        await served.client.send_all(byte)
        await trio.sleep(0.1)
    assert await served.client.receive_some() == OK


async def test_a_client_that_takes_nothing_is_cut_off(serving, autojump_clock):
    left = []

    async def answer(exchange):
        try:
            await exchange.respond(Response(body=b"x" * 100))
        finally:
            left.append(trio.current_time())

    served = await serving(answer, lockstep=True)
    started = trio.current_time()
    await served.client.send_all(GET)
    await served.over.wait()
    assert 60 <= left[0] - started <= 61


# --- the client goes away ---


async def test_a_client_that_ends_its_side_still_gets_its_answer(serving, autojump_clock):
    async def slow(exchange):
        await trio.sleep(3)
        await ok(exchange)

    served = await serving(slow)
    await (Script() >> GET >> EOF << OK << EOF).play(served.client)


async def test_half_a_request_is_cancelled(serving, autojump_clock):
    cancelled = []

    async def read(exchange):
        try:
            await exchange.request.body.read()
        except trio.Cancelled:
            cancelled.append(True)
            raise

    served = await serving(read)
    await (Script() >> b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nab" >> EOF << EOF).play(served.client)
    assert cancelled == [True]


async def test_a_failed_write_cancels_the_exchange(serving, autojump_clock):
    cancelled = []

    async def answer(exchange):
        await trio.sleep(1)
        try:
            await exchange.respond(Response(body=chunks(b"a", b"b")))
        except trio.Cancelled:
            cancelled.append(True)
            raise

    served = await serving(answer)
    await served.client.send_all(GET)
    await served.client.aclose()
    await served.over.wait()
    assert cancelled == [True]


# --- drain ---


async def test_drain_ends_an_idle_connection(serving, autojump_clock):
    served = await serving(ok)
    await (Script() >> GET << OK).play(served.client)
    started = trio.current_time()
    served.drain.start()
    assert await served.everything() == b""
    assert trio.current_time() == started


async def test_drain_lets_a_busy_connection_finish(serving, autojump_clock):
    async def slow(exchange):
        await trio.sleep(3)
        await ok(exchange)

    served = await serving(slow)
    await served.client.send_all(GET)
    await trio.sleep(1)
    served.drain.start()
    assert await served.everything() == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"


async def test_drain_ends_a_connection_that_has_not_spoken(serving, autojump_clock):
    served = await serving(ok)
    await trio.testing.wait_all_tasks_blocked()
    served.drain.start()
    started = trio.current_time()
    assert await served.everything() == b""
    assert trio.current_time() == started


async def test_a_connection_ends_after_so_many_requests(serving, autojump_clock):
    served = await serving(ok, limits=Limits(max_requests=2))
    await (
        Script() >> GET << OK >> GET << b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok" << EOF
    ).play(served.client)


# --- tunnels ---


class Shout(Body):
    """The request's body in capitals: a tunnel that talks to itself."""

    __slots__ = ("source",)

    def __init__(self, source):
        super().__init__()
        self.source = source

    async def pull(self):
        return (await self.source.pull()).upper()


async def accept_tunnel(exchange):
    status = 200 if exchange.request.method == "CONNECT" else 101
    await exchange.respond(Response(status, [("x-a", "b")], Shout(exchange.request.body)))


async def test_connect_opens_a_tunnel(serving, autojump_clock):
    served = await serving(accept_tunnel)
    await (
        Script()
        >> b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"
        << b"HTTP/1.1 200 OK\r\nx-a: b\r\n\r\n"
        >> b"hello"
        << b"HELLO"
        >> EOF
        << EOF
    ).play(served.client)
    await served.over.wait()


UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"


async def test_an_upgrade_opens_a_tunnel(serving, autojump_clock):
    served = await serving(accept_tunnel)
    await (
        Script()
        >> UPGRADE
        << b"HTTP/1.1 101 Switching Protocols\r\nx-a: b\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        >> b"hello"
        << b"HELLO"
        >> EOF
        << EOF
    ).play(served.client)


async def test_a_refused_upgrade_drops_early_bytes_and_closes(serving, autojump_clock):
    pulled = []

    async def refuse(exchange):
        async def pull():
            pulled.append(await exchange.request.body.pull())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pull)
            await trio.testing.wait_all_tasks_blocked()
            await exchange.respond(Response(403))
            nursery.cancel_scope.cancel()

    served = await serving(refuse)
    await (
        Script()
        >> UPGRADE + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        << b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        << EOF
    ).play(served.client)
    assert pulled in ([], [b""])


async def test_101_that_nobody_asked_for_is_refused(serving, autojump_clock):
    async def answer(exchange):
        await exchange.respond(Response(101))

    served = await serving(answer)
    await served.client.send_all(GET)
    assert (await served.everything()).startswith(b"HTTP/1.1 502 ")


async def test_a_half_open_tunnel_that_stands_still_is_ended(serving, autojump_clock):
    async def silent(exchange):
        async def nothing():
            await trio.sleep_forever()
            yield b""

        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.request.body.read)
            await exchange.respond(Response(101, body=Streamed(nothing())))

    served = await serving(silent)
    await served.client.send_all(UPGRADE)
    await trio.sleep(100)
    started = trio.current_time()
    await served.client.send_eof()
    await served.over.wait()
    assert 600 <= trio.current_time() - started <= 602


@pytest.mark.parametrize(
    "line",
    [
        "CONNECT /origin-form HTTP/1.1",
        "CONNECT / HTTP/1.1",
        "CONNECT http://test/bar HTTP/1.1",
        "CONNECT http://test HTTP/1.1",
        "CONNECT * HTTP/1.1",
        "CONNECT test HTTP/1.1",
        "GET test HTTP/1.1",
        "GET * HTTP/1.1",
        "CONNECT a:1 HTTP/1.0",
    ],
)
async def test_bad_targets(serving, autojump_clock, line):
    called = []

    async def never(exchange):
        called.append(exchange)

    served = await serving(never)
    await served.client.send_all(f"{line}\r\nhost: a\r\n\r\n".encode())
    assert (await served.everything()).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert not called


# --- telling ---


async def test_repr_tells_the_state(serving, autojump_clock):
    texts = []

    async def look(exchange):
        texts.append(repr(exchange.respond.__self__._server))
        texts.append(repr(exchange.request.body))
        await ok(exchange)

    served = await serving(look)
    await (Script() >> b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n" << OK >> b"abcd").play(served.client)
    assert texts == [
        "<ServerConnection serving, 1 requests, from 127.0.0.1:49152>",
        "<Sized body, 0 bytes received>",
    ]
