"""Clients that claim to be somebody else: not one claim of theirs reaches the application, however it is spelled.

The application is a raw one that keeps every byte, behind the inbound proxy and HTTP/1, so that nothing of ours reads the
request for it. The oracle: ``l5d-client-id`` comes once, with the identity that the handshake proved, or not at all, and
no other name that a server could read as the mesh's.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from linkerd_proxy.core.contain import contained
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.core.work import Dial, Tls
from linkerd_proxy.detect.detect import Detect
from linkerd_proxy.http.client import Client
from linkerd_proxy.io.transport_header import ALPN, Header, encode_header
from linkerd_proxy.mesh.accepting import accepting
from linkerd_proxy.tcp.forward import Forward
from linkerd_proxy.tcp.transport_header import TransportHeader
from linkerd_proxy.testing import memory_connection
from linkerd_proxy.tls.identity import Given
from tests.http.between import Wire, heard, inbound, mesh
from tests.http.h2.frames import HELLO, Reader, data, get, headers, settings

TRUE, FALSE = "web.ns", b"admin.ns"
PEERS = {
    "plaintext": None,
    "TLS without a certificate": Tls(),
    "mTLS": Tls(TRUE, "app.ns"),
}
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
# A head alone, or one that says chunked and its chunks up to the end of the trailers.
_REQUEST = re.compile(rb"(?:(?!.*\r\ntransfer-encoding).+?|.+?\r\n\r\n(?:.*?\r\n)?0(?:\r\n[^\r]+)*)\r\n\r\n", re.DOTALL)
_RESERVED = re.compile(rb"(?im)^(l5d[^a-z0-9:][^:\r\n]*):[ \t]*([^\r\n]*)")


@dataclass(frozen=True, slots=True)
class Recorder(Stack[Dial]):
    """An application that keeps all that it hears, answers each request, and echoes after an upgrade."""

    heard: list
    answer: bytes = OK

    @asynccontextmanager
    async def open(self):
        async def dial(dial):
            near, far = trio.testing.memory_stream_pair()
            wire = Wire()
            self.heard.append(wire)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve, far, wire)
                await dial.use(near)
                await near.aclose()
                nursery.cancel_scope.cancel()

        yield dial

    async def _serve(self, stream, wire):
        pending = b""
        while received := await stream.receive_some():
            wire.received += received
            pending += received
            while request := _REQUEST.match(pending):
                pending = pending[request.end() :]
                await stream.send_all(SWITCH if b"\r\nupgrade: websocket" in request[0] else self.answer)


@asynccontextmanager
async def behind(tls, *, answer=OK):
    """Yield a function that sends bytes to the inbound proxy from such a peer, and what the application heard."""
    wires = []
    async with (
        trio.open_nursery() as nursery,
        opened(inbound(Client(protocol="http/1.1") | Recorder(wires, answer))) as service,
    ):

        async def send(*pieces, end=False):
            client, connection = memory_connection(tls=tls)
            nursery.start_soon(contained, service, connection)
            for piece in pieces:
                await client.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            if end:
                await client.send_eof()
            return await heard(client)

        yield send, wires
        nursery.cancel_scope.cancel()


def check(wires, identity):
    """Hold what the application heard against the oracle, request by request; return how many there were."""
    requests = 0
    for wire in wires:
        assert FALSE not in wire.received.split(b"\r\n\r\n<content>")[0].lower()
        for head in re.findall(rb"(?:^|\r\n\r\n)((?:GET|POST) .*?)(?=\r\n\r\n)", wire.received, re.DOTALL):
            requests += 1
            claims = _RESERVED.findall(head)
            expected = [] if identity is None else [(b"l5d-client-id", identity.encode())]
            assert claims == expected, head
        assert b"l5d-orig-proto" not in wire.received.lower()
    return requests


def h1(*lines, method=b"GET", version=b"1.1", rest=b""):
    return b"\r\n".join([method + b" / HTTP/" + version, b"host: app", *lines]) + b"\r\n\r\n" + rest


CHUNKED = b"transfer-encoding: chunked"
ID = b"l5d-client-id: " + FALSE
WEBSOCKET = (b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-key: k")

HTTP_1 = {
    "as it is spelled": h1(ID),
    "upper case": h1(ID.upper().replace(FALSE.upper(), FALSE)),
    "mixed case": h1(b"L5d-cLiEnT-iD: " + FALSE),
    "repeated": h1(ID, ID),
    "repeated in two cases": h1(ID, b"L5D-Client-Id: " + FALSE),
    "the true one first": h1(b"l5d-client-id: web.ns", ID),
    "a list": h1(b"l5d-client-id: web.ns, " + FALSE),
    "empty": h1(b"l5d-client-id:"),
    "white space around": h1(b"l5d-client-id: \t " + FALSE + b" \t"),
    "underscores": h1(b"l5d_client_id: " + FALSE),
    "one underscore": h1(b"l5d-client_id: " + FALSE),
    "the other underscore": h1(b"l5d_client-id: " + FALSE),
    "upper case and underscores": h1(b"L5D_CLIENT_ID: " + FALSE),
    "dots": h1(b"l5d.client.id: " + FALSE),
    "tilde": h1(b"l5d~client~id: " + FALSE),
    "plus": h1(b"l5d+client+id: " + FALSE),
    "two dashes": h1(b"l5d--client-id: " + FALSE),
    "longer": h1(b"l5d-client-id-x: " + FALSE),
    "shorter": h1(b"l5d-: " + FALSE),
    "folded": h1(b"x: y", b" " + ID),
    "its value folded": h1(b"l5d-client-id:", b" " + FALSE),
    "space before the colon": h1(b"l5d-client-id : " + FALSE),
    "space in front": h1(b" l5d-client-id: " + FALSE),
    "tab inside": h1(b"l5d-client\t-id: " + FALSE),
    "NUL inside": h1(b"l5d-client\0-id: " + FALSE),
    "bare CR before it": h1(b"x: y\r" + ID),
    "bare LF before it": h1(b"x: y\n" + ID),
    "bare CR in the target": b"GET /\r" + ID + b" HTTP/1.1\r\nhost: app\r\n\r\n",
    "nominated": h1(ID, b"connection: l5d-client-id"),
    "nominated in another case": h1(ID, b"connection: close, L5D-Client-ID"),
    "nominated without being there": h1(b"connection: l5d-client-id"),
    "nominated twice": h1(b"connection: l5d-client-id", b"connection: keep-alive, l5d-client-id", ID),
    "in HTTP/1.0": h1(ID, version=b"1.0"),
    "in HTTP/1.0 kept alive": h1(ID, b"connection: keep-alive", version=b"1.0"),
    "in a trailer": h1(CHUNKED, b"te: trailers", method=b"POST", rest=b"1\r\na\r\n0\r\n" + ID + b"\r\n\r\n"),
    "in an announced trailer": h1(
        CHUNKED, b"te: trailers", b"trailer: l5d-client-id", method=b"POST", rest=b"0\r\n" + ID + b"\r\n\r\n"
    ),
    "in a trailer with underscores": h1(
        CHUNKED, b"te: trailers", method=b"POST", rest=b"0\r\nl5d_client_id: " + FALSE + b"\r\n\r\n"
    ),
    "in a chunk extension": h1(
        CHUNKED, method=b"POST", rest=b"1\r\na\r\n" * 3 + b"1;" + ID.replace(b": ", b"=") + b"\r\na\r\n0\r\n\r\n"
    ),
    "pipelined": h1() + h1(ID) + h1(),
    "before a WebSocket": h1(*WEBSOCKET, ID),
    "nominated before a WebSocket": h1(b"connection: upgrade, l5d-client-id", *WEBSOCKET[1:], ID),
    "with underscores before a WebSocket": h1(*WEBSOCKET, b"l5d_client_id: " + FALSE),
    "orig-proto": h1(b"l5d-orig-proto: HTTP/1.0", ID),
    "orig-proto with underscores": h1(b"l5d_orig_proto: HTTP/1.0"),
    "another of the mesh's": h1(b"l5d-server-id: " + FALSE, b"l5d-remote-ip: 1.2.3.4", b"l5d-dst-override: " + FALSE),
    "the proxy's own": h1(b"l5d-proxy-error: " + FALSE, b"l5d-proxy-connection: close"),
    "required": h1(b"l5d-require-id: " + FALSE),
    "hops": h1(b"l5d-hops: 1"),
    "h2c": h1(b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABk", ID),
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("name", HTTP_1)
async def test_over_http_1(name, peer, autojump_clock):
    tls = PEERS[peer]
    async with behind(tls) as (send, wires):
        answer = await send(HTTP_1[name])
        requests = check(wires, tls.peer_identity if tls else None)
        # Refused by the codec, or cleaned: nothing in between.
        assert requests == answer.count(b"HTTP/1.1 200") + answer.count(b"HTTP/1.1 101") + answer.count(b"HTTP/1.0 200")
        assert requests or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))


HTTP_2 = {
    "as it is spelled": [("l5d-client-id", FALSE)],
    "repeated": [("l5d-client-id", FALSE)] * 3,
    "the true one first": [("l5d-client-id", TRUE), ("l5d-client-id", FALSE)],
    "upper case": [("L5d-Client-Id", FALSE)],
    "underscores": [("l5d_client_id", FALSE)],
    "dots": [("l5d.client.id", FALSE)],
    "nominated": [("connection", "l5d-client-id"), ("l5d-client-id", FALSE)],
    "a line in a value": [("x", b"y\r\n" + ID)],
    "a line in a name": [(b"x: y\r\nl5d-client-id", FALSE)],
    "colon in a name": [(b"l5d-client-id:", FALSE)],
    "pseudo": [(":l5d-client-id", FALSE)],
    "orig-proto": [("l5d-orig-proto", "HTTP/1.1"), ("l5d-client-id", FALSE)],
    "orig-proto of HTTP/1.0": [("l5d-orig-proto", "HTTP/1.0"), ("l5d-client-id", FALSE)],
    "orig-proto that is none": [("l5d-orig-proto", FALSE)],
    "orig-proto twice": [("l5d-orig-proto", "HTTP/1.1"), ("l5d-orig-proto", FALSE)],
    "orig-proto with underscores": [("l5d_orig_proto", "HTTP/1.0"), ("l5d_client_id", FALSE)],
    "required and overridden": [("l5d-require-id", FALSE), ("l5d-dst-override", FALSE)],
    "the proxy's own": [("l5d-proxy-error", FALSE), ("l5d-proxy-connection", "close")],
    "hops": [("l5d-hops", "3"), ("l5d_hops", FALSE)],
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("name", HTTP_2)
async def test_over_http_2(name, peer, autojump_clock):
    tls = PEERS[peer]
    identity = tls.peer_identity if tls else None
    async with behind(tls) as (send, wires):
        said = await send(HELLO + settings(), headers(1, [*get("/"), *HTTP_2[name]]))
        requests = check(wires, identity)
    reader = Reader()
    reader.feed(said.removesuffix(b"<end>"))
    assert reader.statuses(1) == (["200"] if requests else ["400"])


@pytest.mark.parametrize("peer", PEERS)
async def test_in_trailers_of_http_2(peer):
    tls = PEERS[peer]
    identity = tls.peer_identity if tls else None
    async with behind(tls) as (send, wires):
        head = headers(1, [(":method", "POST"), *get("/")[1:], ("te", "trailers")], end=False)
        trailers = [("l5d-client-id", FALSE), ("l5d_client_id", FALSE), ("x-sum", "1")]
        await send(HELLO + settings(), head, data(1, b"abc"), headers(1, trailers))
        assert check(wires, identity) == 1
        assert b"x-sum: 1\r\n" in wires[0].received


@pytest.mark.parametrize("peer", PEERS)
async def test_in_a_websocket_over_http_2(peer):
    tls = PEERS[peer]
    identity = tls.peer_identity if tls else None
    async with behind(tls) as (send, wires):
        head = [
            *((b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":path", b"/")),
            *((b":authority", b"app"), (b"l5d-client-id", FALSE), (b"l5d_client_id", FALSE)),
        ]
        await send(HELLO + settings(), headers(1, head, end=False))
        assert check(wires, identity) == 1


async def test_on_one_connection_each_request_is_cleaned():
    async with behind(PEERS["mTLS"]) as (send, wires):
        await send(h1(ID) * 20)
        assert check(wires, TRUE) == 20


@pytest.mark.parametrize("protocol", [None, "http/1", "http/2"])
async def test_behind_a_transport_header_that_says_something_else(protocol, autojump_clock):
    """A peer that calls HTTP opaque, or one version the other, is looked at all the same, where the port is not opaque."""
    tls = Tls(TRUE, "app.ns", ALPN)
    wires = []
    http = inbound(Client(protocol="http/1.1") | Recorder(wires))
    stack = TransportHeader(opaque_ports=frozenset({25})) | Detect(http=http, otherwise=Forward() | Recorder(wires))
    async with opened(stack) as service, trio.open_nursery() as nursery:
        for claim in (h1(ID), HELLO + settings() + headers(1, [*get("/"), ("l5d-client-id", FALSE)])):
            client, connection = memory_connection(tls=tls)
            nursery.start_soon(contained, service, connection)
            await client.send_all(encode_header(Header(80, None, protocol)) + claim)
            await heard(client)
        nursery.cancel_scope.cancel()
    # What is called by the other version's name is refused by that version's codec.
    assert check(wires, TRUE) == (2 if protocol is None else 1)


LENIENT = {
    "many empty lines": b"\r\n" * 5 + h1(ID),
    "bare CRs": b"\r\r\r\n" + h1(ID),
    "a space in front": b" " + h1(ID),
    "white space of Latin-1": h1(ID).replace(b" ", b"\xa0", 2),
    "a separator in front": b"\x1c" + h1(ID),
    "HTTP/0.9": b"GET x HTTP/0.9\r\n" + ID + b"\r\n\r\n",
    "a long line": b"GET http://app/" + b"x" * 9000 + b" HTTP/1.1\r\nhost: app\r\n" + ID + b"\r\n\r\n",
    "a long method": b"X" * 9000 + b" / HTTP/1.1\r\nhost: app\r\n" + ID + b"\r\n\r\n",
    "another HTTP/2": b"PRI * HTTP/2.0\r\n" + ID + b"\r\n\r\n",
}
"""What is not quite HTTP, and some server takes for it all the same."""


@pytest.mark.parametrize("name", LENIENT)
async def test_what_only_lenient_servers_take_for_http(name, autojump_clock):
    wires = []
    application = Recorder(wires)
    async with (
        opened(accepting(Client(protocol="http/1.1") | application, application)) as service,
        trio.open_nursery() as nursery,
    ):
        client, connection = memory_connection()
        nursery.start_soon(contained, service, connection)
        await client.send_all(LENIENT[name])
        await heard(client)
        nursery.cancel_scope.cancel()
    check(wires, None)
    assert all(FALSE not in wire.received for wire in wires)


@pytest.mark.parametrize("meshed", [True, False])
@pytest.mark.parametrize(
    "pieces",
    [(b"", h1(ID)), (h1(ID)[:2], h1(ID)[2:]), (b"PRI", b"VATE / HTTP/1.1\r\nhost: app\r\n" + ID + b"\r\n\r\n")],
)
async def test_a_client_that_waits_until_nobody_looks_any_more(issuer, meshed, pieces, autojump_clock):
    wires = []
    application = Recorder(wires)
    identity = Given(issuer.credentials(TRUE)) if meshed else None
    stack = accepting(Client(protocol="http/1.1") | application, application, identity=identity)
    async with opened(stack) as service, trio.open_nursery() as nursery:
        client, connection = memory_connection()
        nursery.start_soon(contained, service, connection)
        for piece in pieces:
            with suppress(trio.BrokenResourceError):  # it may have been put out already
                await client.send_all(piece)
                await trio.sleep(60)
        await heard(client)
        nursery.cancel_scope.cancel()
    check(wires, None)
    assert all(FALSE not in wire.received for wire in wires)
    if not pieces[0]:
        assert any(b"GET / HTTP/1.1" in wire.received for wire in wires)  # a connection opened beforehand is served


# --- through both proxies ----------------------------------------------------------------------


@pytest.mark.parametrize("name", HTTP_1)
async def test_a_client_of_the_outbound_proxy_claims_nothing_through_it(name, autojump_clock):
    wires = []
    async with mesh(inner=Client(protocol="http/1.1") | Recorder(wires)) as two:
        await two.ask(HTTP_1[name])
        check(wires, TRUE)
        for wire in two.between:
            assert FALSE not in wire.sent
            assert b"l5d_" not in wire.sent.lower()


async def test_the_outbound_proxy_checks_what_its_application_requires():
    wires = []
    async with mesh(inner=Client(protocol="http/1.1") | Recorder(wires)) as two:
        assert (await two.ask(h1(b"l5d-require-id: app.ns"))).startswith(b"HTTP/1.1 200 ")
        for required in ((b"other.ns",), (b"app.ns", b"other.ns"), (b"",), (b"APP.NS",)):
            refused = await two.ask(h1(*(b"l5d-require-id: " + one for one in required)))
            assert refused.startswith(b"HTTP/1.1 502 ")
            assert b"l5d-proxy-error: UE " in refused
        assert check(wires, TRUE) == 1


# --- answers -----------------------------------------------------------------------------------

SPOKEN = (
    b"HTTP/1.1 200 OK\r\nl5d-proxy-error: no\r\nl5d-proxy-connection: close\r\nL5d-Orig-Proto: HTTP/1.0\r\n"
    b"l5d-client-id: x\r\nl5d_proxy_error: no\r\nx: y\r\ntransfer-encoding: chunked\r\n\r\n"
    b"2\r\nok\r\n0\r\nl5d-proxy-error: no\r\nx-sum: 1\r\n\r\n"
)


@pytest.mark.parametrize("peer", PEERS)
async def test_an_application_does_not_speak_for_the_proxy(peer):
    async with behind(PEERS[peer], answer=SPOKEN) as (send, _):
        answer = await send(h1(b"te: trailers"))
    assert b"\r\nx: y\r\n" in answer
    assert b"\r\nx-sum: 1\r\n" in answer
    assert b"l5d" not in answer.lower()


async def test_a_peers_proxy_does_not_speak_to_our_application():
    async with mesh(inner=Client(protocol="http/1.1") | Recorder([], SPOKEN)) as two:
        answer = await two.ask(h1(b"te: trailers"))
        assert b"\r\nx: y\r\n" in answer
        assert b"\r\nx-sum: 1\r\n" in answer
        assert b"l5d" not in answer.lower()


@pytest.mark.parametrize("peer", PEERS)
async def test_why_something_failed_is_told_to_meshed_peers_only(peer):
    tls = PEERS[peer]
    async with behind(tls, answer=b"nonsense\r\n\r\n") as (send, _):
        answer = await send(h1())
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert (b"l5d-proxy-error" in answer) == (tls is not None and tls.peer_identity is not None)
