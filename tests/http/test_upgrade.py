"""HTTP/1 carried as HTTP/2 between proxies: nobody notices, and no client can harm what others share."""

import re

import pytest
import trio
import trio.testing

from linkerd_proxy.core.message import Request, Response, Streamed
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Exchange, Tls
from linkerd_proxy.errors import UpstreamReset
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.server import Http
from linkerd_proxy.http.upgrade import BETWEEN_PROXIES, Downgrade, Upgrade
from linkerd_proxy.testing import call, check_layer, memory_connection
from tests.http.between import MESHED, Application, Leaf, heard, inbound, mesh
from tests.http.h2.frames import HELLO, Reader, get, headers, settings

GET = b"GET /x HTTP/1.1\r\nhost: app\r\n\r\n"
GATED = b"GET /gated HTTP/1.1\r\nhost: app\r\n\r\n"
H2 = b"PRI * HTTP/2.0"


def hidden(name, *pieces):
    return all(name not in piece.lower() for piece in pieces)


# --- what both ends see ------------------------------------------------------------------------


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_requests_and_answers_keep_their_version_and_nobody_sees_the_field(version):
    async with mesh() as two:
        answer = await two.ask(b"POST /x?y HTTP/" + version + b"\r\nhost: app\r\ncontent-length: 3\r\n\r\nabc")
        (between,), (last,) = two.between, two.last
    assert between.sent.startswith(H2)
    assert last.sent.startswith(b"POST /x?y HTTP/" + version + b"\r\nhost: app\r\n")
    assert last.sent.endswith(b"\r\n\r\nabc")
    assert answer.startswith(b"HTTP/" + version + b" 200 OK\r\n")
    assert b"\r\nx-version: " + version in answer
    assert b"got abc" in answer
    assert hidden(b"l5d-orig-proto", last.sent, answer)
    assert hidden(b"l5d-proxy", last.sent, answer)


async def test_many_clients_share_one_connection():
    async with mesh() as two:
        clients = [two.connect() for _ in range(50)]
        for number, client in enumerate(clients):
            await client.send_all(b"POST /x HTTP/1.1\r\nhost: app\r\ncontent-length: 2\r\n\r\n%02d" % number)
        for number, client in enumerate(clients):
            assert (await heard(client)).endswith(b"\r\n\r\ngot %02d" % number)
        assert len(two.between) == 1


async def test_chunks_trailers_and_empty_bodies_keep_their_shape():
    async with mesh() as two:
        await two.ask(
            b"POST /x HTTP/1.1\r\nhost: app\r\ntransfer-encoding: chunked\r\nte: trailers\r\n\r\n"
            b"3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"
        )
        await two.ask(b"POST /x HTTP/1.1\r\nhost: app\r\ncontent-length: 0\r\n\r\n")
        await two.ask(b"DELETE /x HTTP/1.1\r\nhost: app\r\n\r\n")
        wires = b"".join(wire.sent for wire in two.last)
    chunked, empty, none = wires.split(b" /x HTTP/1.1\r\n")[1:]
    assert b"transfer-encoding: chunked\r\n" in chunked
    assert b"3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n" in chunked
    assert b"content-length: 0\r\n" in empty
    assert b"content-length" not in none
    assert b"transfer-encoding" not in none


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
@pytest.mark.parametrize("status", [200, 204, 304, 404])
async def test_answers_without_content_stay_so(method, status):
    async def answer(exchange):
        empty = status in {204, 304} or method == b"HEAD"
        await exchange.respond(Response(status, body=b"" if empty else b"abc", declared_length=3 if empty else None))

    async with mesh(answer) as two:
        said = await two.ask(method + b" /x HTTP/1.1\r\nhost: app\r\n\r\n" + GET.replace(b"/x", b"/next"))
    assert said.count(b"HTTP/1.1 ") == 2
    assert (b"content-length: 3" in said) == (status != 204)


async def test_hints_come_first():
    async def answer(exchange):
        await exchange.respond(Response(103, [("link", "<a>"), ("l5d-orig-proto", "HTTP/1.0")]))
        await exchange.respond(Response(200, body=b"done"))

    async with mesh(answer) as two:
        said = await two.ask(GET)
    assert re.match(rb"HTTP/1.1 103 [^\r]*\r\nlink: <a>\r\n\r\nHTTP/1.1 200 OK\r\n", said)


async def test_upgrades_and_connect_go_over_http_1():
    websocket = (
        b"GET /ws HTTP/1.1\r\nhost: app\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"l5d-orig-proto: HTTP/1.0\r\nsec-websocket-key: k\r\n\r\n"
    )
    for request in (websocket, b"CONNECT app:80 HTTP/1.1\r\nhost: app:80\r\n\r\n"):
        async with mesh() as two:
            await two.ask(request)
            (wire,) = two.between
        assert wire.sent.startswith(request[:12])
        assert hidden(b"l5d-orig-proto", wire.sent)


async def test_http_2_passes_unmarked():
    seen = []

    async def answer(exchange):
        seen.append(exchange.request)
        await exchange.respond(Response(200, [("l5d-orig-proto", "HTTP/1.1"), ("x", "y")], version="2"))

    async with opened(Upgrade() | Leaf(answer)) as service:
        request = Request("GET", "/", [("l5d-orig-proto", "HTTP/1.1"), ("a", "b")], authority="a", version="2")
        async with call(service, request) as response:
            assert (response.version, list(response.headers)) == ("2", [("x", "y")])
    assert (seen[0].version, list(seen[0].headers)) == ("2", [("a", "b")])


# --- the receiving side ------------------------------------------------------------------------


async def downgraded(told, *, tls=MESHED, version="2", body=b"", respond=None, **values):
    """Return the request as the application gets it, and the answer as the peer does."""
    seen = []

    async def answer(exchange):
        seen.append(exchange.request)
        await exchange.respond(respond or Response(200))

    request = Request("GET", "/", [("l5d-orig-proto", one) for one in told], body, version=version, **values)
    _, connection = memory_connection(tls=tls)
    async with call(Downgrade() | Leaf(answer), request, connection=connection) as response:
        pass
    assert "l5d-orig-proto" not in seen[0].headers
    return seen[0], response


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("HTTP/1.1", "1.1"),
        ("HTTP/1.0", "1.0"),
        ("HTTP/1.1; absolute-form", "1.1"),
        ("HTTP/1.0;absolute-form", "1.0"),
        ("HTTP/1.2", "2"),
        ("HTTP/2.0", "2"),
        ("http/1.1", "2"),
        ("", "2"),
        ("HTTP/1.1, HTTP/1.0", "2"),
    ],
)
async def test_what_the_field_says(told, version):
    request, response = await downgraded([told])
    assert request.version == version
    assert ("l5d-orig-proto" in response.headers) == (version != "2")
    request, _ = await downgraded([told, told])
    assert request.version == "2"


@pytest.mark.parametrize(
    ("told", "absolute"),
    [
        ("HTTP/1.1", False),
        ("HTTP/1.1; absolute-form", True),
        ("HTTP/1.0;absolute-form", True),
        ("HTTP/1.1; origin-form", False),
        ("HTTP/1.1; absolute-form; x", False),
        ("HTTP/1.2; absolute-form", False),
    ],
)
async def test_the_targets_form_is_told(told, absolute):
    request, _ = await downgraded([told], authority="app")
    assert request.absolute_form is absolute
    request, _ = await downgraded([told])  # of no host there is no whole URL
    assert not request.absolute_form


async def test_the_targets_form_is_believed_of_nobody_else():
    told = ["HTTP/1.1; absolute-form"]
    for tls in (None, Tls(), Tls(server_name="app.ns")):
        request, _ = await downgraded(told, tls=tls, authority="app")
        assert not request.absolute_form
    request, _ = await downgraded(told, version="1.1", authority="app")
    assert not request.absolute_form
    request, _ = await downgraded(told, upgrade="websocket", authority="app")
    assert not request.absolute_form


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize(
    ("asked", "got", "host"),
    [
        (b"GET http://app/x?y", b"GET http://app/x?y", b"app"),
        (b"GET http://app", b"GET http://app/", b"app"),
        (b"GET HTTPS://other:8443/x", b"GET https://other:8443/x", b"other:8443"),  # the target wins over Host
        (b"OPTIONS http://app", b"OPTIONS http://app", b"app"),
        (b"OPTIONS http://app/", b"OPTIONS http://app/", b"app"),
        (b"GET /x", b"GET /x", b"app"),
        (b"OPTIONS *", b"OPTIONS *", b"app"),
    ],
)
async def test_the_application_gets_the_targets_form_that_the_client_sent(asked, got, host, version):
    async with mesh() as two:
        answer = await two.ask(asked + b" HTTP/" + version + b"\r\nhost: app\r\nl5d-orig-proto: HTTP/1.1\r\n\r\n")
        (between,), (last,) = two.between, two.last
    assert between.sent.startswith(H2)
    assert last.sent.startswith(got + b" HTTP/" + version + b"\r\nhost: " + host + b"\r\n")
    assert hidden(b"l5d-orig-proto", last.sent, answer)
    assert answer.startswith(b"HTTP/" + version + b" 200 OK\r\n")


async def test_an_origin_gets_origin_form_by_default():
    for asked in (b"GET http://app/x", b"GET /x"):
        async with mesh(absolute_form=False) as two:
            await two.ask(asked + b" HTTP/1.1\r\nhost: app\r\n\r\n")
            (last,) = two.last
        assert last.sent.startswith(b"GET /x HTTP/1.1\r\nhost: app\r\n")


async def test_a_field_of_the_clients_own_does_not_change_the_form():
    for told in (b"HTTP/1.1; absolute-form", b"HTTP/1.0; absolute-form"):
        async with mesh() as two:
            await two.ask(b"GET /x HTTP/1.1\r\nhost: app\r\nl5d-orig-proto: " + told + b"\r\n\r\n")
            (last,) = two.last
        assert last.sent.startswith(b"GET /x HTTP/1.1\r\nhost: app\r\n")


async def test_a_websocket_keeps_its_targets_form_too():
    asked = b"GET http://app/ws HTTP/1.1\r\nhost: app\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    async with mesh() as two:
        await two.ask(asked)
        (last,) = two.last
    assert last.sent.startswith(b"GET http://app/ws HTTP/1.1\r\nhost: app\r\n")


async def test_only_an_authenticated_peer_is_believed_and_only_in_http_2():
    for tls in (None, Tls(), Tls(server_name="app.ns")):
        request, response = await downgraded(["HTTP/1.0"], tls=tls)
        assert (request.version, "l5d-orig-proto" in response.headers) == ("2", False)
    request, response = await downgraded(["HTTP/1.0"], version="1.1")
    assert (request.version, "l5d-orig-proto" in response.headers) == ("1.1", False)
    request, _ = await downgraded(["HTTP/1.1"], upgrade="websocket")
    assert request.version == "2"


async def test_http_1_0_is_not_restored_where_it_could_not_tell_the_contents_end():
    async def smuggled():
        yield GET

    request, _ = await downgraded(["HTTP/1.0"], body=Streamed(smuggled()))
    assert request.version == "1.1"
    request, _ = await downgraded(["HTTP/1.0"], body=Streamed(smuggled(), len(GET)))
    assert request.version == "1.0"


async def test_the_applications_answer_can_not_speak_for_the_proxy():
    said = Response(200, [("l5d-orig-proto", "HTTP/1.0"), ("l5d-proxy-connection", "close")], version="1.1")
    _, response = await downgraded(["HTTP/1.1"], respond=said)
    assert list(response.headers) == [("l5d-orig-proto", "HTTP/1.1")]


# --- failures ----------------------------------------------------------------------------------


async def test_a_reset_is_a_502_for_an_http_1_client():
    async def reset(exchange):
        error = UpstreamReset("the application's own upstream did")
        error.http2_code = 2
        raise error

    async with mesh(peer=Http() | Leaf(reset)) as two:
        said = await two.ask(GET)
        assert two.between[0].sent.startswith(H2)
    assert said.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"connection: close\r\n" in said


async def test_a_reset_in_the_middle_cuts_the_answer_visibly():
    async def half(exchange):
        async def chunks():
            yield b"half"
            raise UpstreamReset("in the middle")

        await exchange.respond(Response(200, body=Streamed(chunks())))

    async with mesh(half) as two:
        said = await two.ask(GET)
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert not said.endswith(b"0\r\n\r\n<end>")


@pytest.mark.parametrize("heed", [True, False])
async def test_a_failure_that_closes_closes_the_clients_connection_and_not_the_shared_one(heed):
    async def fail(exchange):
        if exchange.request.path == "/fail":
            raise UpstreamReset("the application's")
        await exchange.respond(Response(200))

    async with mesh(inner=Leaf(fail), upgrade=Upgrade(close=heed)) as two:
        said = await two.ask(GET.replace(b"/x", b"/fail"))
        assert said.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert (b"connection: close\r\n" in said, said.endswith(b"<end>")) == (heed, heed)
        assert hidden(b"l5d-proxy", said)
        assert (await two.ask(GET)).startswith(b"HTTP/1.1 200 OK\r\n")
        assert len(two.between) == 1


async def test_http_1_0_gets_no_close_from_a_peer_that_it_did_not_have():
    async def answer(exchange):
        await exchange.respond(Response(200, [("l5d-proxy-connection", "keep-alive")], b"x"))

    async with mesh(peer=Http() | Leaf(answer)) as two:
        said = await two.ask(GET)
    assert said.endswith(b"\r\n\r\nx")
    assert hidden(b"l5d-proxy", said)


async def test_a_call_that_fails_in_the_middle_tells_its_status_and_no_more():
    async def fail(exchange):
        async def chunks():
            yield b"half"
            raise UpstreamReset("the application's")

        await exchange.respond(Response(200, [("content-type", "application/grpc")], Streamed(chunks())))

    async with mesh(inner=Leaf(fail)) as two:
        fields = [(":method", "POST"), *get("/call")[1:], ("content-type", "application/grpc"), ("te", "trailers")]
        said = await two.ask(HELLO + settings() + headers(1, fields))
        reader = Reader()
        reader.feed(said.removesuffix(b"<end>"))
        told = [field for frame in reader.frames for field in getattr(frame, "fields", None) or ()]
    assert reader.body(1) == b"half"
    assert ("grpc-status", "14") in told
    assert not [name for name, _ in told if name.startswith("l5d-")]


# --- one client's broken request ----------------------------------------------------------------


BROKEN = {
    "no head at all": (b"\x00\x01\x02\r\n\r\n", False),
    "two Hosts": (b"GET /hang HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", False),
    "both lengths": (
        b"POST /hang HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        False,
    ),
    "a control character": (b"GET /hang HTTP/1.1\r\nhost: a\r\nx: \x01\r\n\r\n", False),
    "a body shorter than its length": (b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc", True),
    "a body longer than its length": (b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nabc\r\n\r\n", False),
    "a bad chunk": (b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nxyz\r\n", False),
    "a chunk that never ends": (b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nff\r\na", True),
    "a bad trailer": (
        b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nte: trailers\r\n\r\n0\r\nx\x01: y\r\n\r\n",
        False,
    ),
    "a head that never ends": (b"GET /hang HTTP/1.1\r\nhost: a\r\nx: ", True),
    "a head above the limit": (b"GET /hang HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 20_000 + b"\r\n\r\n", False),
    "a target above the limit": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", False),
    "too many fields": (b"GET /hang HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 101 + b"\r\n", False),
    "a client that goes away": (b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n", None),
    "a client that goes away mid-body": (b"POST /hang HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc", None),
    "a client that goes away mid-answer": (GATED, None),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_one_clients_broken_request_harms_no_other(name, autojump_clock):
    data, end = BROKEN[name]
    async with mesh() as two:
        good = two.connect()
        await good.send_all(GATED)
        assert (await heard(good)).endswith(b"\r\n\r\nfirst,")
        for _ in range(3):
            broken = two.connect()
            await broken.send_all(data)
            await trio.testing.wait_all_tasks_blocked()
            if end is None:
                await two.hang_up(broken)
            elif end:
                await broken.send_eof()
            await trio.testing.wait_all_tasks_blocked()
            assert (await two.ask(GET)).endswith(b"got ")
        two.application.gate.set()
        assert (await heard(good)) == b"second"
        for client in list(two.scopes):
            await two.hang_up(client)
        assert two.application.running == 0
        assert len(two.between) == 1, "the connection that all share was given up"


# Within the default limits, and above them as HTTP/2 counts: 32 bytes more for each field, and one more field.
LARGE = b"GET /x HTTP/1.1\r\nhost: a\r\n" + b"".join(b"x%d: %b\r\n" % (n, b"a" * 150) for n in range(98)) + b"\r\n"


async def test_what_the_first_proxy_takes_the_next_one_takes():
    async with mesh() as two:
        assert (await two.ask(LARGE)).endswith(b"got ")


async def test_a_head_that_only_the_next_proxy_refuses_harms_no_other():
    application = Application()
    async with mesh(peer=inbound(Leaf(application), limits=Limits())) as two:
        good = two.connect()
        await good.send_all(GATED)
        await heard(good)
        for _ in range(3):
            assert (await two.ask(LARGE)).startswith(b"HTTP/1.1 431 ")
            assert (await two.ask(GET)).endswith(b"got ")
        application.gate.set()
        assert (await heard(good)) == b"second"
        assert len(two.between) == 1


async def test_clients_that_cancel_a_lot_do_not_end_what_others_share():
    async with mesh() as two:
        good = two.connect()
        await good.send_all(GATED)
        await heard(good)
        for _ in range(500):
            client = two.connect()
            await client.send_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n")
            await trio.testing.wait_all_tasks_blocked()
            await two.hang_up(client)
        two.application.gate.set()
        assert (await heard(good)) == b"second"
        assert (len(two.between), two.application.running) == (1, 0)


async def test_clients_that_do_not_read_do_not_stop_others(autojump_clock):
    async def slow_client(two):
        client = two.connect(lockstep=True)
        await client.send_all(b"GET /big HTTP/1.1\r\nhost: app\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        return client

    async with mesh(limits=BETWEEN_PROXIES) as two:
        clients = [await slow_client(two) for _ in range(60)]
        assert (await two.ask(GET)).endswith(b"got ")
        assert len(two.between) == 1
        for client in clients:
            await client.aclose()


async def test_cancelling_at_any_turn_leaves_nothing_behind():
    async with mesh() as two:
        await two.ask(GET)
        for turns in range(25):
            client = two.connect()
            await client.send_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc")
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            await two.hang_up(client)
            assert two.application.running == 0
        assert (await two.ask(GET)).endswith(b"got ")
        assert len(two.between) == 1


async def test_a_peer_without_an_identity_is_served_as_what_it_speaks():
    application = Application()
    async with mesh(application, tls=None) as two:
        await two.ask(GET)
        assert hidden(b"l5d-", two.last[0].sent)
    assert application.seen[0].version == "2"


# --- the layers --------------------------------------------------------------------------------


def exchange(version, *fields):
    async def respond(response):
        await response.body.read()

    _, connection = memory_connection(tls=MESHED)
    return Exchange(Request("GET", "/", list(fields), authority="a", version=version), respond, connection)


async def test_the_layers_keep_every_layers_rules():
    for layer, make in (
        (Upgrade(close=False), lambda: exchange("1.1")),
        (Upgrade(), lambda: exchange("2")),
        (Downgrade(), lambda: exchange("2", ("l5d-orig-proto", "HTTP/1.1"))),
        (Downgrade(), lambda: exchange("1.1")),
    ):
        await check_layer(layer, make)


def test_the_limits_between_proxies_have_room_for_every_stream():
    limits = BETWEEN_PROXIES
    assert limits.h2_connection_window >= limits.h2_max_streams * limits.h2_stream_window
    assert Limits().h2_resets_per_second < limits.h2_resets_per_second
