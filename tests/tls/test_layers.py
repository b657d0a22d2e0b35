"""Terminate and Originate: who is decrypted, who passes through, and who is told what."""

from __future__ import annotations

import logging
import ssl
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import memory_stream_pair

from linkerd_proxy import Dial, InvalidConfiguration, Target
from linkerd_proxy.core.contain import contained
from linkerd_proxy.core.shared import hosting
from linkerd_proxy.errors import HandshakeFailed, IdentityMismatch, NoCredentials, UpstreamHandshakeFailed
from linkerd_proxy.io.rewind import Rewound
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.testing import memory_connection
from linkerd_proxy.tls.identity import Given, Identity, LiveIdentity
from linkerd_proxy.tls.originate import Originate
from linkerd_proxy.tls.terminate import Terminate
from tests.io.test_client_hello import real_hello
from tests.patience import PATIENCE
from tests.tls.conftest import API, WEB, failures, issuer_pem, make_issuer

SPIFFE = "spiffe://mesh.example/ns/default/sa/web"


@pytest.fixture
def web(issuer):
    return Given(issuer.credentials(WEB))


@pytest.fixture
def api(issuer):
    return Given(issuer.credentials(API))


@asynccontextmanager
async def between(client, server, *, serve=None, target=None):
    """Serve one dial of a client's layer by a server's layer, and yield what both sides saw of it."""
    seen: dict[str, object] = {}

    async def echo(connection):
        seen["connection"] = connection
        while data := await connection.stream.receive_some():
            await connection.stream.send_all(data)
        await connection.stream.send_eof()

    async def connect(dial):
        ours, theirs = memory_connection()
        async with server.open(serve or echo) as service, trio.open_nursery() as nursery:
            nursery.start_soon(contained, service, theirs)
            try:
                await dial.use(ours)
            finally:
                await trio.aclose_forcefully(ours)

    async def use(stream):
        seen["stream"] = stream
        await stream.send_all(b"hello")
        await stream.send_eof()
        seen["answer"] = b"".join([chunk async for chunk in stream])

    async with hosting(), client.open(connect) as service:
        try:
            with trio.fail_after(PATIENCE):
                await service(Dial(target or Target(identity=WEB), use))
        except* Exception as group:
            error = group
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            seen["error"] = error
    yield seen


async def test_both_prove_who_they_are(web, api):
    async with between(Originate(api), Terminate(web)) as seen:
        assert seen["answer"] == b"hello"
        assert seen["connection"].tls.peer_identity == API
        assert seen["connection"].tls.server_name == WEB
        assert seen["connection"].protocol is None
        assert seen["stream"].tls.peer_identity == WEB
    assert failures("server") == failures("client") == {}


async def test_spiffe_ids_work_without_sni(issuer, api):
    identity = Given(issuer.credentials(SPIFFE))
    async with between(Originate(identity), Terminate(identity), target=Target(identity=SPIFFE)) as seen:
        assert seen["answer"] == b"hello"
        assert seen["connection"].tls.peer_identity == SPIFFE
        assert seen["connection"].tls.server_name is None


async def test_protocols_are_agreed_on_only_if_both_want(web, api):
    for offered, chosen in (
        (("transport.l5d.io/v1",), "transport.l5d.io/v1"),
        (("h2", "transport.l5d.io/v1"), "transport.l5d.io/v1"),
        (("h2",), None),
        ((), None),
    ):
        async with between(Originate(api, alpn=offered), Terminate(web)) as seen:
            assert seen["connection"].tls.alpn == seen["stream"].tls.alpn == chosen


async def test_another_identity_than_asked_for_gets_nothing(issuer, web, api):
    async with between(Originate(api), Terminate(web, server_names=("*",)), target=Target(identity=API)) as seen:
        error = seen["error"]
        assert isinstance(error, IdentityMismatch)
        assert error.reason == "identity"
        assert f"{WEB} instead of {API}" in str(error)
        assert "stream" not in seen
    assert failures("client") == {"identity": 1}


async def test_a_fixed_peer_wins_over_the_target(web, api):
    async with between(Originate(api, peer=WEB), Terminate(web), target=Target()) as seen:
        assert seen["stream"].tls.peer_identity == WEB


async def test_a_target_without_identity_is_dialled_in_the_clear(web, api):
    async with between(Originate(api), Terminate(web), target=Target()) as seen:
        assert seen["answer"] == b"hello"
        assert seen["connection"].tls is None
        assert seen["connection"].sni is None


async def test_a_client_without_a_certificate_is_somebody_unknown_unless_one_is_required(issuer, web, tmp_path):
    client = stdlib_client(issuer, tmp_path)
    async with between(Originate(context=client), Terminate(web), target=Target(server_name=WEB)) as seen:
        assert seen["answer"] == b"hello"
        assert seen["connection"].tls.peer_identity is None
    required = Terminate(web, require_identity=True)
    async with between(Originate(context=client), required, target=Target(server_name=WEB)) as seen:
        assert isinstance(seen["error"], trio.BrokenResourceError)
        assert "connection" not in seen
    assert failures("server") == {"no_certificate": 1}


def stdlib_client(issuer, directory):
    (directory / "ca.pem").write_bytes(issuer_pem(issuer))
    return ssl.create_default_context(cafile=str(directory / "ca.pem"))


async def test_a_context_of_ones_own_works_on_both_sides(issuer, tmp_path):
    chain, key = issuer.issue(WEB).pem
    (tmp_path / "both.pem").write_bytes(chain + key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "both.pem")
    client = Originate(context=stdlib_client(issuer, tmp_path))
    async with between(client, Terminate(context=server), target=Target(server_name=WEB)) as seen:
        assert seen["answer"] == b"hello"
        assert seen["connection"].tls.server_name == WEB
    async with between(client, Terminate(context=server), target=Target(server_name=API)) as seen:
        assert isinstance(seen["error"], UpstreamHandshakeFailed)
        assert seen["error"].reason == "host"


@pytest.mark.parametrize("split", [1, 7, 10_000])
@pytest.mark.parametrize("rewound", [False, True])
async def test_what_is_for_others_passes_through_untouched(web, split, rewound):
    for data, sni, protocol in (
        (real_hello("other.example"), "other.example", "opaque"),
        (real_hello(None), None, "opaque"),
        (b"GET / HTTP/1.1\r\n\r\n", None, None),
        (b"\x16\x03\x01", None, None),
        (b"", None, None),
    ):
        ours, connection = memory_connection()
        if rewound:
            connection.stream = Rewound(connection.stream, data[:2])
        got = {}

        async def see(connection, got=got):
            got["connection"] = connection
            got["bytes"] = b"".join([chunk async for chunk in connection.stream])

        async with Terminate(web).open(see) as serve, trio.open_nursery() as nursery:
            nursery.start_soon(serve, connection)
            rest = data[2 if rewound else 0 :]
            for at in range(0, len(rest), split):
                await ours.send_all(rest[at : at + split])
                await trio.lowlevel.checkpoint()
            await ours.send_eof()
        assert got["bytes"] == data
        assert got["connection"].tls is None
        assert (got["connection"].sni, got["connection"].protocol) == (sni, protocol)


async def test_nothing_passes_through_where_an_identity_is_required(web):
    for data in (real_hello("other.example"), b"GET / HTTP/1.1\r\n\r\n"):
        ours, connection = memory_connection()
        await ours.send_all(data)

        async def never(_):
            raise AssertionError

        async with Terminate(web, require_identity=True).open(never) as serve:
            with pytest.raises(HandshakeFailed, match="sent no certificate") as caught:
                await serve(connection)
            assert caught.value.reason == "no_certificate"


@pytest.mark.parametrize("how", ["eof", "reset"])
@pytest.mark.parametrize("required", [False, True])
async def test_a_client_that_leaves_without_a_byte_is_no_failure(web, how, required, caplog):
    ours, connection = memory_connection()
    if how == "eof":
        await ours.send_eof()
    else:
        await ours.aclose()
    served = []

    async def see(connection):
        served.append(connection)

    async with Terminate(web, require_identity=required).open(see) as serve:
        await serve(connection)
    assert len(served) == (not required)
    assert failures("server") == {}
    assert caplog.records == []
    assert current_registry().counter("tls_passed_total", "", why="eof").value == 1
    assert current_registry().counter("tls_passed_total", "", why="plaintext").value == 0


@pytest.mark.parametrize("begun", [b"", b"\x16", "hello"])
async def test_a_client_that_stalls_is_given_up(web, autojump_clock, begun):
    ours, connection = memory_connection()
    await ours.send_all(real_hello(WEB) if begun == "hello" else begun)
    async with Terminate(web).open(ignore) as serve:
        with pytest.raises(HandshakeFailed, match="did not finish the handshake in time after 10 s") as caught:
            await serve(connection)
    assert caught.value.reason == "timeout"
    assert trio.current_time() == pytest.approx(10, abs=0.1)
    assert failures("server") == {"timeout": 1}


async def ignore(_connection):
    pass


async def test_an_upstream_that_stalls_is_given_up(api, autojump_clock):
    ours, _theirs = memory_stream_pair()

    async def connect(dial):
        await dial.use(ours)

    async with Originate(api, timeout=3).open(connect) as serve:
        with pytest.raises(UpstreamHandshakeFailed, match="in time after 3 s") as caught:
            await serve(Dial(Target(identity=WEB), ignore))
    assert caught.value.reason == "timeout"


async def test_peers_that_break_off_are_told_apart(web, api):
    for how, reason in (("eof", "eof"), ("reset", "reset")):
        ours, connection = memory_connection()
        await ours.send_all(real_hello(WEB))
        if how == "eof":
            await ours.send_eof()
        else:
            await ours.aclose()
        async with Terminate(web).open(ignore) as serve:
            with pytest.raises(HandshakeFailed) as caught:
                await serve(connection)
        assert caught.value.reason == reason


async def test_an_upstream_that_speaks_something_else_is_told_so(api):
    ours, theirs = memory_stream_pair()
    await theirs.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def connect(dial):
        await dial.use(ours)

    async with Originate(api).open(connect) as serve:
        with pytest.raises(UpstreamHandshakeFailed, match="does not speak TLS") as caught:
            await serve(Dial(Target(identity=WEB), ignore))
    assert caught.value.reason == "not_tls"


async def test_without_credentials_there_is_one_clear_error(autojump_clock):
    class Empty(Identity):
        @asynccontextmanager
        async def open(self):
            yield LiveIdentity(WEB)

    ours, connection = memory_connection()
    await ours.send_all(real_hello(WEB))
    async with Terminate(Empty()).open(ignore) as serve:
        with pytest.raises(NoCredentials):
            await serve(connection)
    async with Originate(Empty()).open(ignore) as serve:
        with pytest.raises(NoCredentials):
            await serve(Dial(Target(identity=WEB), ignore))


async def test_new_credentials_are_used_for_new_connections_and_old_ones_go_on(issuer, api):
    other = make_issuer("another root")
    live = LiveIdentity(WEB, issuer.credentials(WEB))

    class Turning(Identity):
        @asynccontextmanager
        async def open(self):
            yield live

    async with between(Originate(api), Terminate(Turning())) as seen:
        assert seen["answer"] == b"hello"
    live.publish(other.credentials(WEB))
    async with between(Originate(api), Terminate(Turning())) as seen:
        assert seen["error"].reason == "unknown_ca"


async def test_a_certificate_that_cannot_be_used_changes_nothing(issuer, api, caplog):
    live = LiveIdentity(WEB, issuer.credentials(WEB))
    bad = issuer.issue(WEB)
    bad.key = issuer.key

    class Turning(Identity):
        @asynccontextmanager
        async def open(self):
            yield live

    turning = Terminate(Turning())
    ours = []

    async def serve_it(connection):
        live.publish(bad.credentials(WEB, issuer))
        ours.append(connection)

    async with turning.open(serve_it) as serve:
        for _ in range(2):
            async with between(Originate(api), AsLayer(serve)) as seen:
                assert "error" not in seen or not isinstance(seen["error"], UpstreamHandshakeFailed)
    assert len(ours) == 2
    assert [record.message for record in caplog.records if "can't be used" in record.message]


class AsLayer:
    """Something opened already, in the place of a layer."""

    def __init__(self, service):
        self.service = service

    @asynccontextmanager
    async def open(self, _inner):
        yield self.service


async def test_a_refused_client_is_one_line_in_the_log(web, caplog):
    stranger = Originate(Given(make_issuer("stranger").credentials(API)))
    caplog.set_level(logging.WARNING, logger="linkerd_proxy")
    async with between(stranger, Terminate(web)):
        pass
    assert failures("client") == {"unknown_ca": 1}
    assert [line for line in caplog.messages if line.startswith("DTF Terminate: ")] == [
        "DTF Terminate: the client's side refused this one's handshake: tlsv1 alert unknown ca; see the other side's log"
        " from 127.0.0.1:49152 to 127.0.0.1:8080"
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda web: Terminate(),
        lambda web: Terminate(web, context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)),
        lambda web: Terminate(context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), require_identity=True),
        lambda web: Terminate(web, timeout=0),
        lambda web: Terminate(web, max_handshakes=0),
        lambda web: Originate(),
        lambda web: Originate(web, host="a.example"),
        lambda web: Originate(peer=WEB),
        lambda web: Originate(web, peer="*.example"),
        lambda web: Originate(web, roots="x"),
        lambda web: Originate(web, timeout=0),
    ],
)
def test_bad_configuration_is_refused_where_it_is_written(web, make):
    with pytest.raises(InvalidConfiguration):
        make(web)


def test_a_layer_shows_what_is_not_as_by_default(web):
    assert repr(Terminate(web, require_identity=True)).startswith("Terminate(identity=Given(")
    assert "require_identity=True" in repr(Terminate(web, require_identity=True))
    assert repr(Originate(host="a.example")) == "Originate(host='a.example')"
    assert "PRIVATE" not in repr(Terminate(web))
