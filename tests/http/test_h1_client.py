"""Client() on HTTP/1 connections, by what goes over the wire, and what becomes of the connections."""

import contextlib
import re
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from linkerd_proxy.core.message import Request, Streamed, Whole
from linkerd_proxy.core.stack import opened
from linkerd_proxy.errors import (
    BadRequest,
    ConnectFailed,
    IdleTimeout,
    Overloaded,
    UpstreamClosed,
    UpstreamProtocolError,
)
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.testing import EOF, RESET, MemoryConnect, MemoryListener, Script, ScriptMismatch, call

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ANY_HEAD = re.compile(rb"[^\r\n]+ HTTP/1\.[01]\r\n(?:[^\r\n]+\r\n)*\r\n")


def get(path="/", **values):
    return Request(path=path, authority="a", **values)


class Refused:
    """A script that the client cuts short, before or after the last byte of it was sent."""

    def __init__(self, script):
        self.script = script

    async def play(self, stream, split):
        with contextlib.suppress(ScriptMismatch):
            await (self.script << RESET).play(stream, split=split)


class Upstream:
    """Plays a script on each connection, in order of their arrival."""

    def __init__(self, *scripts, split=None):
        self.listener = MemoryListener()
        self.scripts = list(scripts)
        self.split = split
        self.heard = []
        self.connections = 0

    async def run(self):
        async with trio.open_nursery() as nursery:
            while True:
                connection = await self.listener.accept()
                self.connections += 1
                nursery.start_soon(self.play, connection.stream, self.scripts.pop(0))

    async def play(self, stream, script):
        self.heard.append(await script.play(stream, split=self.split))


@pytest.fixture
async def asking(codec, nursery):
    @asynccontextmanager
    async def ask(*scripts, limits=None, split=None):
        upstream = Upstream(*scripts, split=split)
        stack = Client(codec=codec, limits=limits or Limits()) | MemoryConnect(upstream.listener)
        async with trio.open_nursery() as running:
            running.start_soon(upstream.run)
            async with opened(stack) as service:
                yield service, upstream
            running.cancel_scope.cancel()

    return ask


async def fetch(service, request=None):
    async with call(service, request or get()) as answer:
        return answer.status, await answer.body.read()


async def test_a_connection_is_used_again(asking, autojump_clock):
    for split in (None, 1, 7):
        async with asking(Script() << GET >> OK << GET >> OK, split=split) as (service, upstream):
            assert await fetch(service) == (200, b"ok")
            assert await fetch(service) == (200, b"ok")
            assert upstream.connections == 1


async def test_an_unused_connection_is_closed_after_3_seconds(asking, autojump_clock):
    async with asking(Script() << GET >> OK << EOF, Script() << GET >> OK) as (service, upstream):
        await fetch(service)
        await trio.sleep(5)
        assert len(upstream.heard) == 1
        await fetch(service)
        assert upstream.connections == 2


@pytest.mark.parametrize(
    "request_", [Request(authority=""), Request(authority="a", version="1.0")], ids=["no host", "HTTP/1.0"]
)
async def test_without_host_or_1_1_every_request_has_its_own_connection(asking, autojump_clock, request_):
    head = Script() << ANY_HEAD >> OK << EOF
    async with asking(head, head) as (service, upstream):
        await fetch(service, request_)
        await fetch(service, request_)
        assert upstream.connections == 2
    heads = {bytes(heard) for heard in upstream.heard}
    if request_.version == "1.0":
        assert heads == {b"GET / HTTP/1.0\r\nhost: a\r\n\r\n"}
    else:
        assert heads == {b"GET / HTTP/1.1\r\nhost: \r\nconnection: close\r\n\r\n"}


async def test_hosts_do_not_share_connections(asking, autojump_clock):
    one = Script() << ANY_HEAD >> OK
    async with asking(one << ANY_HEAD >> OK, one) as (service, upstream):
        for host in ("a", "b", "a"):
            await fetch(service, Request(authority=host))
        assert upstream.connections == 2


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request("POST", authority="a"), b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"),
        (Request("DELETE", authority="a"), b"DELETE / HTTP/1.1\r\nhost: a\r\n\r\n"),
        (Request("GET", authority="a", body=Whole()), b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"),
        (
            Request("POST", "/x?y", [("X-A", "b")], b"hello", authority="a:1"),
            b"POST /x?y HTTP/1.1\r\nhost: a:1\r\nx-a: b\r\ncontent-length: 5\r\n\r\nhello",
        ),
        (Request("OPTIONS", "*", authority="a"), b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n"),
    ],
    ids=["POST without", "DELETE without", "explicit 0", "POST with", "asterisk"],
)
async def test_requests_as_they_are_sent(asking, autojump_clock, request_, said):
    async with asking(Script() << said >> OK) as (service, _):
        assert await fetch(service, request_) == (200, b"ok")


async def test_request_trailers_are_sent_in_chunks(asking, autojump_clock):
    said = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx-sum: 1\r\n\r\n"
    body = Whole(b"ab", Headers([("x-sum", "1"), ("host", "evil")]))
    async with asking(Script() << said >> OK) as (service, _):
        assert await fetch(service, Request("POST", authority="a", body=body)) == (200, b"ok")


def streamed(*pieces, length=None):
    async def generate():
        for piece in pieces:
            await trio.sleep(1)
            yield piece

    return Streamed(generate(), length)


async def test_an_upload_is_streamed_with_its_framing(asking, autojump_clock):
    sized = b"PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nabcd"
    chunked = b"PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n"
    async with asking(Script() << sized >> OK << chunked >> OK) as (service, upstream):
        await fetch(service, Request("PUT", authority="a", body=streamed(b"ab", b"cd", length=4)))
        await fetch(service, Request("PUT", authority="a", body=streamed(b"ab", b"cd")))
        assert upstream.connections == 1


@pytest.mark.parametrize(("pieces", "sent"), [((b"abc",), b"abc"), ((b"abc", b"def"), b"abc")])
async def test_an_upload_of_another_length_is_never_completed(asking, autojump_clock, pieces, sent):
    async with asking(Script() << ANY_HEAD << sent << RESET) as (service, _):
        with pytest.raises(BadRequest):
            await fetch(service, Request("PUT", authority="a", body=streamed(*pieces, length=5)))


async def test_an_early_answer_ends_the_upload_and_the_connection(asking, autojump_clock):
    early = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n"
    async with asking(Script() << ANY_HEAD >> early << RESET, Script() << GET >> OK) as (service, upstream):
        body = streamed(*[b"x"] * 1000)
        assert await fetch(service, Request("PUT", authority="a", body=body)) == (413, b"")
        assert await fetch(service) == (200, b"ok")
        assert upstream.connections == 2


async def test_100_continue_is_waited_for(asking, autojump_clock):
    request = Request("PUT", "/", [("expect", "100-continue")], streamed(b"ab", length=2), authority="a")
    script = Script() << ANY_HEAD
    script = script.pause(0.5) >> b"HTTP/1.1 100 Continue\r\n\r\n" << b"ab" >> OK
    async with asking(script) as (service, _), call(service, request) as answer:
        assert answer.status == 200
        assert [r.status for r in answer.informational] == [100]
        await answer.body.read()


async def test_100_continue_is_not_waited_for_for_ever(asking, autojump_clock):
    request = Request("PUT", "/", [("expect", "100-continue")], streamed(b"ab", length=2), authority="a")
    async with asking(Script() << ANY_HEAD << b"ab" >> OK) as (service, _):
        assert await fetch(service, request) == (200, b"ok")


async def test_a_refused_expectation_sends_no_body(asking, autojump_clock):
    body = streamed(b"ab", length=2)
    request = Request("PUT", "/", [("expect", "100-continue")], body, authority="a")
    async with asking(Script() << ANY_HEAD >> b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n" << EOF) as (service, _):
        assert await fetch(service, request) == (401, b"")


# --- responses ---


@pytest.mark.parametrize("split", [None, 1, 7])
@pytest.mark.parametrize(
    ("said", "body", "again"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"hello", True),
        (b"HTTP/1.1 200\r\ncontent-length: 5\r\n\r\nhello", b"hello", True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello", True),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello", b"hello", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"hello", False),
        (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nhello", b"hello", True),
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", b"", True),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"", True),
    ],
)
async def test_responses(asking, autojump_clock, said, body, again, split):
    first = Script() << GET >> said
    scripts = [first << GET >> OK] if again else [first << EOF, Script() << GET >> OK]
    async with asking(*scripts, split=split) as (service, upstream):
        async with call(service, get()) as answer:
            assert await answer.body.read() == body
        assert await fetch(service) == (200, b"ok")
        assert upstream.connections == len(scripts)


async def test_a_head_response_keeps_its_length(asking, autojump_clock):
    async with asking(Script() << ANY_HEAD >> b"HTTP/1.1 200 OK\r\ncontent-length: 55\r\n\r\n" << GET >> OK) as (
        service,
        upstream,
    ):
        async with call(service, Request("HEAD", authority="a")) as answer:
            assert answer.declared_length == 55
            assert await answer.body.read() == b""
        await fetch(service)
        assert upstream.connections == 1


async def test_a_response_until_the_connections_end(asking, autojump_clock):
    said = b"HTTP/1.1 200 OK\r\n\r\nhello"
    async with asking(Script() << GET >> said >> EOF << EOF) as (service, _):
        assert await fetch(service) == (200, b"hello")


async def test_response_trailers(asking, autojump_clock):
    said = (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\ngrpc-status: 0\r\nset-cookie: a=b\r\n\r\n"
    )
    async with asking(Script() << GET >> said) as (service, _), call(service, get()) as answer:
        assert await answer.body.read() == b"x"
        assert answer.body.trailers == Headers([("grpc-status", "0")])


@pytest.mark.parametrize("split", [None, 1])
@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 099 Odd\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n",
        b"http/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx : a\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: a\x00b\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17 + OK,
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ],
)
async def test_malformed_responses_are_a_bad_gateway(asking, autojump_clock, said, split):
    if split and len(said) > 10_000:
        split = 977
    async with asking(Refused(Script() << GET >> said), split=split) as (service, _):
        with pytest.raises(UpstreamProtocolError):
            await fetch(service)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", UpstreamClosed),
        (b"HTTP/1.1 200", UpstreamClosed),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel", UpstreamClosed),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel", UpstreamClosed),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", UpstreamClosed),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5x\r\nhello", UpstreamProtocolError),
    ],
)
async def test_truncated_responses_are_errors(asking, autojump_clock, said, error):
    script = Script() << GET
    script = script >> said if said else script
    async with asking(script >> EOF << EOF) as (service, upstream):
        with pytest.raises(error):
            await fetch(service)
        assert upstream.connections == 1


async def test_bytes_that_nobody_asked_for_are_nobodys_answer(asking, autojump_clock):
    poison = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nPOISON"
    async with asking(Script() << GET >> OK + poison << EOF, Script() << GET >> OK) as (service, upstream):
        assert await fetch(service) == (200, b"ok")
        assert await fetch(service) == (200, b"ok")
        assert upstream.connections == 2


# --- reuse and its races ---


async def test_a_kept_connection_that_died_is_replaced_once(asking, autojump_clock):
    async with asking(Script() << GET >> OK << GET >> EOF << EOF, Script() << GET >> OK) as (service, upstream):
        await fetch(service)
        assert await fetch(service) == (200, b"ok")
        assert upstream.connections == 2


async def test_a_request_that_is_not_idempotent_is_not_repeated(asking, autojump_clock):
    async with asking(Script() << GET >> OK << ANY_HEAD >> EOF << RESET) as (service, upstream):
        await fetch(service)
        with pytest.raises(UpstreamClosed):
            await fetch(service, Request("POST", authority="a"))
        assert upstream.connections == 1


async def test_a_started_answer_is_not_asked_for_again(asking, autojump_clock):
    async with asking(Script() << GET >> OK << GET >> b"HTTP/1.1" >> EOF << RESET) as (service, upstream):
        await fetch(service)
        with pytest.raises(UpstreamClosed):
            await fetch(service)
        assert upstream.connections == 1


async def test_leaving_a_response_half_way_aborts_the_connection(asking, autojump_clock):
    said = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhel"
    async with asking(Script() << GET >> said << RESET, Script() << GET >> OK) as (service, upstream):
        async with call(service, get()) as answer:
            assert await answer.body.pull() == b"hel"
        assert await fetch(service) == (200, b"ok")
        assert upstream.connections == 2


# --- limits ---


async def test_requests_wait_for_a_connection_and_take_over_what_comes_free(asking, autojump_clock):
    slow = Script() << GET
    slow = slow.pause(1) >> OK << GET
    slow = slow.pause(1) >> OK
    async with asking(slow, limits=Limits(max_connections=1)) as (service, upstream):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch, service)
            await trio.testing.wait_all_tasks_blocked()
            assert await fetch(service) == (200, b"ok")
        assert upstream.connections == 1


async def test_another_hosts_unused_connection_makes_room(asking, autojump_clock):
    one = Script() << ANY_HEAD >> OK << EOF
    async with asking(one, one, limits=Limits(max_connections=1)) as (service, upstream):
        await fetch(service, Request(authority="a"))
        await fetch(service, Request(authority="b"))
        assert upstream.connections == 2


async def test_too_many_waiting_requests_are_refused_at_once(asking, autojump_clock):
    slow = Script() << GET
    limits = Limits(max_connections=1, max_waiting=1)
    async with asking(slow, limits=limits) as (service, _), trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(swallow, service)
            await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        with pytest.raises(Overloaded, match="max_waiting"):
            await fetch(service)
        assert trio.current_time() == started
        nursery.cancel_scope.cancel()


async def swallow(service):
    with pytest.raises((Overloaded, trio.Cancelled, UpstreamClosed)) as info:
        await fetch(service)
    if info.errisinstance(trio.Cancelled):
        raise info.value


async def test_waiting_for_a_connection_has_an_end(asking, autojump_clock):
    limits = Limits(max_connections=1)
    async with asking(Script() << GET, limits=limits) as (service, _), trio.open_nursery() as nursery:
        nursery.start_soon(swallow, service)
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        with pytest.raises(Overloaded, match="max_connections"):
            await fetch(service)
        assert trio.current_time() - started == pytest.approx(3)
        nursery.cancel_scope.cancel()


async def test_a_dead_upstream_does_not_hang_for_ever(asking, autojump_clock):
    async with asking((Script() << GET).pause(1000), limits=Limits(upstream_idle=20)) as (service, _):
        started = trio.current_time()
        with pytest.raises(IdleTimeout):
            await fetch(service)
        assert 20 <= trio.current_time() - started <= 21


async def test_a_refused_connection_is_the_callers_error(codec, autojump_clock):
    listener = MemoryListener()
    await listener.aclose()
    with pytest.raises(ConnectFailed):
        await fetch(Client(codec=codec) | MemoryConnect(listener))


@pytest.mark.parametrize(
    "request_",
    [
        get(headers=[("x", "a\r\nb: c")]),
        get(headers=[("x y", "")]),
        get(headers=[("transfer-encoding", "chunked")]),
        get(path="/ HTTP/1.1\r\nx: y"),
        get(path="nowhere"),
        Request("G T", authority="a"),
        Request(authority="a b"),
        Request("CONNECT", "", authority="a"),
    ],
)
async def test_a_request_that_would_be_misread_is_not_sent(asking, autojump_clock, request_):
    async with asking(Script() << RESET) as (service, _):
        with pytest.raises(BadRequest):
            await fetch(service, request_)


# --- tunnels ---


async def test_tunnels(asking, autojump_clock):
    async def words():
        yield b"hello"

    for request, said, answer in [
        (
            Request("CONNECT", "", authority="a:1", body=Streamed(words())),
            b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n",  # no content: RFC 9110 section 9.3.6
        ),
        (
            Request(authority="a", upgrade="websocket", body=Streamed(words())),
            b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        ),
    ]:
        script = Script() << said >> answer + b"early" << b"hello" << EOF >> b"late" >> EOF
        async with asking(script) as (service, _), call(service, request) as response:
            assert response.status in {101, 200}
            assert await response.body.read() == b"earlylate"


async def test_nothing_goes_through_a_tunnel_that_was_refused(asking, autojump_clock):
    pulled = []

    async def words():
        pulled.append(True)
        yield b"GET /smuggled HTTP/1.1\r\n\r\n"

    request = Request("CONNECT", "", authority="a:1", body=Streamed(words()))
    async with asking(Script() << ANY_HEAD >> b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n") as (service, _):
        assert await fetch(service, request) == (403, b"")
    assert not pulled


# --- closing, telling ---


async def test_closing_the_layer_closes_its_connections(asking, autojump_clock):
    async with asking(Script() << GET >> OK << EOF) as (service, upstream):
        await fetch(service)
    assert upstream.connections == 1


def test_repr_names_what_differs_from_the_default():
    assert repr(Client()) == "Client()"
    assert repr(Client("h2", limits=Limits(pool_idle=1))) == "Client(protocol='h2', limits=Limits(pool_idle=1))"
