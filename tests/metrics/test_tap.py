"""Taps: who looks sees what passes, within bounds, and no request waits for it."""

import json
import random
from contextlib import ExitStack

import pytest
import trio
import trio.testing

from linkerd_proxy.address import Address
from linkerd_proxy.core.message import Request, Response, Streamed
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Connection, Exchange, Tls
from linkerd_proxy.errors import InvalidConfiguration, Overloaded, UpstreamReset
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.handler import handler
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.mesh.tap_stream import Lines
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.metrics.tap import Tap
from linkerd_proxy.metrics.tap_events import as_json
from linkerd_proxy.metrics.tap_match import Match
from linkerd_proxy.metrics.taps import BUFFER, MAX_TAPS, current_taps
from linkerd_proxy.tcp.forward import Forward
from linkerd_proxy.testing import MemoryConnect, MemoryListener, call, check_layer, memory_connection


async def chunks(*parts):
    for part in parts:
        await trio.lowlevel.checkpoint()
        yield part


@handler
async def answer(request):
    if request.path == "/fail":
        raise UpstreamReset("gone")
    await request.body.read()
    if request.path == "/stream":
        return Response(200, [("set-cookie", "a=b"), ("x", "y")], Streamed(chunks(b"abc", b"de")))
    return Response(404 if request.path == "/missing" else 200, body=b"hello")


def connection(peer="10.1.2.3", identity=None):
    _, made = memory_connection()
    tls = Tls(peer_identity=identity, server_name="web.mesh.local") if identity else None
    return Connection(made.stream, Address(peer, 5000), Address("10.9.9.9", 80), tls=tls)


async def ask(service, request, **where):
    async with call(service, request, connection=connection(**where)) as response:
        return await response.body.read()


async def seen(service, match, *requests, **options):
    with current_taps().open(match, **options) as tap:
        for request in requests:
            await ask(service, request)
        return [as_json(event) for event in await tap.receive()]


async def test_it_keeps_the_rules_of_a_layer():
    async def respond(response):
        await response.body.read()

    await check_layer(Tap(), lambda: Exchange(Request("GET", "/"), respond, connection()))
    await check_layer(Tap[Connection](), connection)
    with current_taps().open(Match()):
        await check_layer(Tap(), lambda: Exchange(Request("GET", "/"), respond, connection()))


async def test_an_exchange_is_shown_from_its_head_to_its_end(autojump_clock):
    async with opened(Tap({"direction": "inbound"}) | answer) as service:
        with current_taps().open(Match()) as tap:
            request = Request("POST", "/stream", body=Streamed(chunks(b"12", b"3")), authority="web")
            await ask(service, request, identity="client.mesh.local")
            begun, head, end = (as_json(event) for event in await tap.receive())
    assert begun == {
        "event": "request", "id": begun["id"], "direction": "inbound", "source": "10.1.2.3:5000",
        "destination": "10.9.9.9:80", "client_id": "client.mesh.local", "server_name": "web.mesh.local",
        "method": "POST", "scheme": "http", "authority": "web", "path": "/stream", "version": "1.1",
    }  # fmt: skip
    assert (head["event"], head["status"], head["id"]) == ("response", 200, begun["id"])
    assert (end["event"], end["request_bytes"], end["response_bytes"], end["error"]) == ("end", 3, 5, "")


async def test_secrets_in_a_query_are_not_shown():
    async with opened(Tap() | answer) as service:
        begun = (await seen(service, Match(), Request("GET", "/?user=1&access_token=s3cret")))[0]
    assert begun["path"] == "/?user=1&access_token=(redacted)"


async def test_headers_only_if_asked_for_and_never_credentials():
    request = Request("GET", "/stream", [("authorization", "Bearer secret"), ("x-fine", "1")])
    async with opened(Tap() | answer) as service:
        events = await seen(service, Match(), request, headers=True)
        assert events[0]["headers"] == [["authorization", "redacted"], ["x-fine", "1"]]
        assert events[1]["headers"] == [["set-cookie", "redacted"], ["x", "y"]]
        assert all("headers" not in event for event in await seen(service, Match(), request))


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        *[(name, True) for name in ("authorization", "proxy-authorization", "cookie", "x-api-key", "apikey")],
        *[(name, True) for name in ("x-auth-token", "x-amz-security-token", "x-csrf-token", "x-session-id")],
        *[(name, True) for name in ("x-goog-iap-jwt-assertion", "x-hub-signature-256", "x-client-secret")],
        *[(name, False) for name in ("idempotency-key", "sec-websocket-key", "user-agent", "traceparent", "etag")],
    ],
)
async def test_credentials_have_many_names(name, hidden):
    async with opened(Tap() | answer) as service:
        events = await seen(service, Match(), Request("GET", "/", [(name, "s3cret")]), headers=True)
    assert events[0]["headers"] == [[name, "redacted" if hidden else "s3cret"]]


@pytest.mark.parametrize(
    ("match", "wanted"),
    [
        (Match(), True),
        (Match(method="get"), True),
        (Match(method="POST"), False),
        (Match(path="/a"), True),
        (Match(path="/b"), False),
        (Match(authority="Web.Example"), True),
        (Match(authority="*.example"), True),
        (Match(authority="example"), False),
        (Match(source="10.1.0.0/16"), True),
        (Match(source="10.2.0.0/16"), False),
        (Match(source="10.1.2.3"), True),
        (Match(port=80), True),
        (Match(port=81), False),
        (Match(client_id="a.mesh"), True),
        (Match(client_id="*.mesh"), True),
        (Match(client_id="b.mesh"), False),
        (Match(labels=[("place", "here")]), True),
        (Match(labels=[("place", "there")]), False),
        (Match(method="GET", path="/b"), False),
    ],
)
async def test_what_matches_is_shown(match, wanted):
    async with opened(Tap({"place": "here"}) | answer) as service:
        with current_taps().open(match) as tap:
            await ask(service, Request("GET", "/abc", authority="web.example"), identity="a.mesh")
            assert (tap.left < 1_000_000) is wanted


async def test_failures_tell_their_code_inside_and_outside_of_rescue():
    for stack in (Tap() | Rescue() | answer, Rescue() | Tap() | answer):
        async with opened(stack) as service:
            events = await seen(service, Match(), Request("GET", "/fail"))
            assert events[-1]["error"] == "UR"


async def test_a_client_that_goes_away_is_a_cancel():
    @handler
    async def stuck(request):
        await trio.sleep_forever()

    async with opened(Tap() | stuck) as service:
        with current_taps().open(Match()) as tap:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, service, Request("GET", "/"))
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            assert as_json((await tap.receive())[-1])["error"] == "CANCEL"


async def test_grpc_status_comes_from_the_trailers():
    @handler
    async def grpc(request):
        body = Streamed(chunks(b"x"))
        body.trailers = Headers([("grpc-status", "14")])
        return Response(200, [("content-type", "application/grpc")], body)

    request = Request("POST", "/a.B/C", [("content-type", "application/grpc")], version="2")
    async with opened(Tap() | grpc) as service:
        assert (await seen(service, Match(), request))[-1]["grpc_status"] == "14"


async def test_the_limit_ends_it_and_the_sample_chooses():
    async with opened(Tap() | answer) as service:
        requests = [Request("GET", f"/{n}") for n in range(100)]
        assert {e["event"] for e in await seen(service, Match(), *requests, limit=2)} == {"request", "response", "end"}
        assert len(await seen(service, Match(), *requests, limit=2)) == 6
        some = await seen(service, Match(), *requests, sample=0.3, chance=random.Random(1))
        assert 60 <= len(some) <= 120


async def test_a_reader_that_is_too_slow_loses_events_and_nobody_waits():
    async with opened(Tap() | answer) as service:
        with current_taps().open(Match()) as tap:
            for _ in range(BUFFER):
                await ask(service, Request("GET", "/"))
            assert tap.dropped == 2 * BUFFER
            assert len(await tap.receive()) == BUFFER
    assert current_registry().counter("tap_events_dropped_total", "").value == 2 * BUFFER


async def test_taps_are_few_and_gone_when_they_end():
    taps = current_taps()
    with ExitStack() as held:
        for _ in range(MAX_TAPS):
            held.enter_context(taps.open(Match()))
        with pytest.raises(Overloaded, match="16 taps are open"), taps.open(Match()):
            pass
    assert taps.active == []


@pytest.mark.parametrize("options", [{"limit": 0}, {"sample": 0}, {"sample": 1.5}])
async def test_a_tap_that_shows_nothing_is_refused(options):
    with pytest.raises(InvalidConfiguration), current_taps().open(Match(), **options):
        pass


def test_a_source_that_is_no_network_is_refused():
    with pytest.raises(InvalidConfiguration, match=r"'10\.0\.0/x' is no network"):
        Match(source="10.0.0/x")


async def test_connections_are_shown_with_their_bytes(autojump_clock):
    listener = MemoryListener()
    upstream = MemoryConnect(listener)
    client, made = memory_connection()

    async with opened(Tap[Connection]() | Forward() | upstream) as service, trio.open_nursery() as nursery:
        with current_taps().open(Match()) as tap, current_taps().open(Match(method="GET")) as other:
            nursery.start_soon(service, made)
            far = (await listener.accept()).stream
            await client.send_all(b"hello")
            assert await far.receive_some() == b"hello"
            await far.send_all(b"hi")
            assert await client.receive_some() == b"hi"
            await client.send_eof()
            await far.send_eof()
            await trio.testing.wait_all_tasks_blocked()
            opened_event, closed = (as_json(event) for event in await tap.receive())
            assert other.left == 1_000_000
    assert opened_event["event"] == "open"
    assert (closed["event"], closed["read_bytes"], closed["written_bytes"], closed["error"]) == ("close", 5, 2, "")


async def test_a_silent_tap_sends_an_empty_line_by_which_a_reader_that_has_gone_is_found(autojump_clock):
    with current_taps().open(Match(), limit=1) as tap:
        lines = Lines(tap)
        began = trio.current_time()
        assert await lines.pull() == b"\n"
        assert trio.current_time() - began == 10


async def test_a_tap_whose_limit_is_reached_ends_with_what_it_took():
    async with opened(Tap() | answer) as service:
        with current_taps().open(Match(), limit=1) as tap:
            await ask(service, Request("GET", "/1"))
            await ask(service, Request("GET", "/2"))
            told = await Lines(tap).read()
    assert [json.loads(line)["event"] for line in told.splitlines()] == ["request", "response", "end"]
