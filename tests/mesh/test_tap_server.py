"""Linkerd's tap, asked by grpcio over mutual TLS: who may look, at what, and what is told."""

import random
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from linkerd_proxy import InvalidConfiguration, open_listeners, opened, serve
from linkerd_proxy.address import Address
from linkerd_proxy.core.message import Request, Response, Streamed, Whole
from linkerd_proxy.core.work import Connection, Tls
from linkerd_proxy.errors import UpstreamReset
from linkerd_proxy.grpc.net_api import HttpMethod, HttpScheme, IpAddress, Ipv6, http_method, ip_of
from linkerd_proxy.grpc.tap_api import (
    Extract,
    ExtractHttp,
    HttpMatch,
    Match,
    MatchSeq,
    Netmask,
    NoFields,
    ObserveRequest,
    PairMatch,
    PortRange,
    StringMatch,
    TapEvent,
    TcpMatch,
)
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.handler import handler
from linkerd_proxy.mesh.tap_request import match_of
from linkerd_proxy.mesh.tap_server import tap_server
from linkerd_proxy.metrics.tap import Tap
from linkerd_proxy.metrics.taps import BUFFER, current_taps
from linkerd_proxy.protobuf import message, text, uint
from linkerd_proxy.testing import Authority, call, memory_connection
from linkerd_proxy.tls.identity import Given
from linkerd_proxy.tls.store import key_pem, to_pem
from tests.patience import PATIENCE

grpc = pytest.importorskip("grpc")

SERVER, VIZ, OTHER = "web.mesh.local", "tap.viz.mesh.local", "other.mesh.local"
PATH = "/io.linkerd.proxy.tap.Tap/Observe"


@handler
async def answer(request):
    if request.path == "/fail":
        raise UpstreamReset("gone")
    if request.is_grpc:
        return Response(200, [("content-type", "application/grpc")], Whole(b"abc", Headers([("grpc-status", "5")])))
    return Response(201, [("x-a", "b"), ("set-cookie", "secret")], Streamed(chunks(b"ab", b"c")))


async def chunks(*parts):
    for part in parts:
        await trio.lowlevel.checkpoint()
        yield part


def connection(peer="10.1.2.3"):
    _, made = memory_connection()
    tls = Tls(peer_identity="client.mesh.local", server_name=SERVER)
    return Connection(made.stream, Address(peer, 5000), Address("10.9.9.9", 80), tls=tls)


async def ask(service, request, **where):
    async with call(service, request, connection=connection(**where)) as response:
        return await response.body.read()


class Server:
    """A running tap server and a service with a Tap layer."""

    def __init__(self, port, authority, service):
        self.port = port
        self.authority = authority
        self.service = service

    def channel(self, name):
        roots = self.authority.roots
        if name is None:
            credentials = grpc.ssl_channel_credentials(roots)
        else:
            made = self.authority.issue(name)
            credentials = grpc.ssl_channel_credentials(roots, key_pem(made.key), to_pem(made.chain))
        options = [("grpc.ssl_target_name_override", SERVER)]
        return grpc.secure_channel(f"127.0.0.1:{self.port}", credentials, options)

    def observe(self, request, name=VIZ, channel=None):
        """Return all events, and the trailers; runs in a thread."""
        with channel or self.channel(name) as used:
            stub = used.unary_stream(PATH, request_serializer=bytes, response_deserializer=TapEvent.FromString)
            replies = stub(request, timeout=PATIENCE)
            return list(replies), dict(replies.trailing_metadata())

    async def seen(self, request, *requests, name=VIZ):
        """Return what grpcio is told while the requests are served."""
        told = []

        async def look():
            data = request if isinstance(request, bytes) else request.SerializeToString()
            told.append(await trio.to_thread.run_sync(self.observe, data, name))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await until(lambda: current_taps().active or told)
            for one in requests:
                with suppress(UpstreamReset):
                    await ask(self.service, one)
        return told[0]


async def until(condition):
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110  # grpcio is in another thread, and sets no event of ours
            await trio.sleep(0.01)


@asynccontextmanager
async def running():
    authority = Authority()
    stack = tap_server(Given(authority.issue(SERVER)), VIZ, dice=random.Random(1))
    listeners = await open_listeners("127.0.0.1:0")
    async with trio.open_nursery() as nursery, opened(Tap({"direction": "inbound", "srv": "web"}) | answer) as service:
        await nursery.start(serve, stack, listeners)
        yield Server(listeners[0].address.port, authority, service)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def server():
    async with running() as made:
        yield made


async def test_grpcio_is_told_of_a_request_from_its_head_to_its_end(server):
    wanted = ObserveRequest(limit=1, extract=Extract(http=ExtractHttp(headers=NoFields())))
    request = Request("POST", "/a?b", [("x-c", "d"), ("authorization", "secret")], authority="web")
    (begun, head, end), trailers = await server.seen(wanted, request)
    assert (begun.source.ip.ipv4, begun.source.port) == (0x0A010203, 5000)
    assert (begun.destination.ip.ipv4, begun.destination.port) == (0x0A090909, 80)
    assert dict(begun.source_meta.labels) == {"tls": "true", "client_id": "client.mesh.local"}
    assert dict(begun.destination_meta.labels) == {"direction": "inbound", "srv": "web"}
    assert begun.proxy_direction == 1
    init = begun.http.request_init
    assert (init.method.registered, init.scheme.registered, init.authority, init.path) == (1, 0, "web", "/a?b")
    assert [(one.name, one.value) for one in init.headers.headers] == [("x-c", b"d"), ("authorization", b"redacted")]
    answered = head.http.response_init
    assert (answered.http_status, answered.id) == (201, init.id)
    assert ("set-cookie", b"redacted") in [(one.name, one.value) for one in answered.headers.headers]
    ended = end.http.response_end
    assert (ended.response_bytes, ended.id, ended.eos.WhichOneof("end")) == (3, init.id, None)
    assert ended.since_request_init.nanos >= ended.since_response_init.nanos >= 0
    assert "l5d-tap-dropped" not in trailers
    assert current_taps().active == []


async def test_a_request_as_the_wire_has_it_and_the_status_of_grpc_with_its_trailers(server):
    # limit 1, match.http.path.prefix "/pkg.", extract.http.headers: written by hand, from tap.proto.
    match = message(6, message(4, text(2, "/pkg.")))
    wanted = uint(1, 1) + message(2, match) + message(3, message(1, message(1, b"")))
    other = Request("GET", "/other")
    asked = Request("POST", "/pkg.Service/Do", [("content-type", "application/grpc")], version="2")
    events, _ = await server.seen(wanted, other, asked)
    assert [event.http.WhichOneof("event") for event in events] == ["request_init", "response_init", "response_end"]
    assert events[0].http.request_init.path == "/pkg.Service/Do"
    ended = events[2].http.response_end
    assert ended.eos.grpc_status_code == 5
    assert [(one.name, one.value) for one in ended.trailers.headers] == [("grpc-status", b"5")]
    assert not events[0].http.request_init.HasField("scheme") or events[0].http.request_init.scheme.registered == 0


async def test_headers_only_for_those_who_ask_and_failures_as_resets(server):
    events, _ = await server.seen(ObserveRequest(limit=1), Request("GET", "/fail", [("x", "y")]))
    assert [event.http.WhichOneof("event") for event in events] == ["request_init", "response_end"]
    assert not events[0].http.request_init.headers.headers
    assert events[1].http.response_end.eos.reset_error_code == 2


@pytest.mark.parametrize(
    ("name", "status"),
    [(None, "UNAUTHENTICATED"), (OTHER, "PERMISSION_DENIED"), (f"a.{VIZ}", "PERMISSION_DENIED")],
)
async def test_nobody_else_may_look(server, name, status):
    def refused():
        with pytest.raises(grpc.RpcError) as caught:
            server.observe(ObserveRequest(limit=1).SerializeToString(), name)
        return caught.value.code().name

    assert await trio.to_thread.run_sync(refused) == status
    assert not current_taps().active


async def test_nobody_may_look_in_the_clear(server):
    def refused():
        with pytest.raises(grpc.RpcError) as caught:
            server.observe(
                ObserveRequest(limit=1).SerializeToString(), channel=grpc.insecure_channel(f"127.0.0.1:{server.port}")
            )
        return caught.value.code().name

    assert await trio.to_thread.run_sync(refused) == "UNAUTHENTICATED"


@pytest.mark.parametrize(
    "request_",
    [
        ObserveRequest(),
        ObserveRequest(limit=1, match=Match(not_=Match())),
        ObserveRequest(limit=1, match=Match(source=TcpMatch())),
        ObserveRequest(limit=1, match=Match(http=HttpMatch(method=HttpMethod(registered=99)))),
    ],
)
async def test_what_shows_nothing_is_an_invalid_argument(server, request_):
    def refused():
        with pytest.raises(grpc.RpcError) as caught:
            server.observe(request_.SerializeToString())
        return caught.value.code().name, caught.value.details()

    code, details = await trio.to_thread.run_sync(refused)
    assert code == "INVALID_ARGUMENT"
    assert ":" in details


async def test_a_caller_that_goes_ends_its_tap(server):
    def go():
        channel = server.channel(VIZ)
        replies = channel.unary_stream(PATH)(ObserveRequest(limit=9).SerializeToString(), timeout=PATIENCE)
        next(replies)
        replies.cancel()
        return channel

    async with trio.open_nursery() as nursery:
        channels = []

        async def run():
            channels.append(await trio.to_thread.run_sync(go))

        nursery.start_soon(run)
        await until(lambda: current_taps().active)
        await ask(server.service, Request("GET", "/"))
        await until(lambda: not current_taps().active)
    channels[0].close()


async def test_a_caller_that_does_not_read_loses_events_and_is_told_how_many(server):
    """Requests go on at once: none of them waits for the caller."""
    requests = [Request("GET", f"/{n}") for n in range(BUFFER)]
    told = []

    async def look():
        wanted = ObserveRequest(limit=len(requests)).SerializeToString()
        told.append(await trio.to_thread.run_sync(server.observe, wanted))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await until(lambda: current_taps().active)
        (tap,) = current_taps().active
        await until(lambda: tap._arrived.statistics().tasks_waiting)
        async with trio.open_nursery() as asking:
            for one in requests:
                asking.start_soon(ask, server.service, one)
    events, trailers = told[0]
    assert int(trailers["l5d-tap-dropped"]) > 0
    assert len(events) + int(trailers["l5d-tap-dropped"]) <= 3 * len(requests)
    assert len({event.http.request_init.path for event in events} - {""}) >= BUFFER // 4


# --- matches -----------------------------------------------------------------------------------


def net(ip, mask):
    return Match(source=TcpMatch(netmask=Netmask(ip=ip, mask=mask)))


def ports(**between):
    return Match(destination=TcpMatch(ports=PortRange(**between)))


def head(**parts):
    return Match(http=HttpMatch(**parts))


YES, NO = head(method=http_method("GET")), head(method=http_method("PUT"))
V4 = IpAddress(ipv4=0x0A01FFFF)


@pytest.mark.parametrize(
    ("match", "wanted"),
    [
        (None, True),
        (Match(), True),
        (YES, True),
        (NO, False),
        (Match(not_=NO), True),
        (Match(all=MatchSeq()), True),
        (Match(any=MatchSeq()), False),
        (Match(all=MatchSeq(matches=[YES, NO])), False),
        (Match(all=MatchSeq(matches=[YES, Match()])), True),
        (Match(any=MatchSeq(matches=[NO, YES])), True),
        (Match(not_=Match(any=MatchSeq(matches=[NO, Match(all=MatchSeq(matches=[NO]))]))), True),
        (net(V4, 16), True),
        (net(V4, 24), False),
        (net(V4, 0), True),
        (net(IpAddress(ipv6=Ipv6()), 0), False),
        (ports(min=80), True),
        (ports(max=80), True),
        (ports(min=81), False),
        (ports(min=1, max=80), True),
        (ports(min=81, max=90), False),
        (head(scheme=HttpScheme(registered=0)), True),
        (head(scheme=HttpScheme(registered=1)), False),
        (head(scheme=HttpScheme(unregistered="gopher")), False),
        (head(method=HttpMethod(unregistered="BREW")), False),
        (head(authority=StringMatch(exact="web")), True),
        (head(authority=StringMatch(exact="we")), False),
        (head(authority=StringMatch(prefix="we")), True),
        (head(path=StringMatch(prefix="/a")), True),
        (head(path=StringMatch(exact="/a")), False),
        (Match(destination_label=PairMatch(key="srv", value="web")), True),
        (Match(destination_label=PairMatch(key="srv", value="api")), False),
        (Match(route_label=PairMatch(key="none", value="")), False),
    ],
)
async def test_every_kind_of_match(match, wanted):
    async with opened(Tap({"srv": "web"}) | answer) as service:
        with current_taps().open(match_of(match), limit=9) as tap:
            await ask(service, Request("GET", "/abc", authority="web"))
            assert (tap.left < 9) is wanted
            _, made = memory_connection()
            assert not tap.match.connection(made, {"srv": "web"})


def nested(depth):
    match = YES
    for _ in range(depth):
        match = Match(not_=match)
    return match


@pytest.mark.parametrize(
    ("match", "problem"),
    [
        (nested(17), "too large"),
        (Match(all=MatchSeq(matches=[YES] * 256)), "too large"),
        (net(V4, 33), "no network"),
        (net(IpAddress(), 0), "no network"),
        (ports(), "no"),
        (ports(min=90, max=80), "from 90 to 80"),
        (ports(min=1, max=70000), "70000"),
        (head(), "no part"),
        (head(scheme=HttpScheme()), "no scheme"),
        (head(path=StringMatch()), "path is empty"),
    ],
)
def test_a_match_that_can_not_be_is_refused(match, problem):
    with pytest.raises(InvalidConfiguration, match=problem):
        match_of(match)


def test_the_largest_matches_are_taken():
    assert match_of(nested(16))
    assert match_of(Match(all=MatchSeq(matches=[YES] * 255)))


def test_addresses_of_ipv6_have_two_halves():
    assert str(ip_of(IpAddress(ipv6=Ipv6(first=0x20010DB8 << 32, last=1)))) == "2001:db8::1"


def test_somebody_must_be_allowed():
    identity = Given(Authority().issue(SERVER))
    for allowed in ((), ("",)):
        with pytest.raises(InvalidConfiguration, match="lets nobody look"):
            tap_server(identity, *allowed)
