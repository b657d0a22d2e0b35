"""Spiffe: what the agent pushes is what handshakes use, if peers will accept it."""

from __future__ import annotations

import queue
import random
import threading
from concurrent import futures
from datetime import UTC, datetime, timedelta

import pytest
import trio
from cryptography.hazmat.primitives import serialization

from linkerd_proxy import Http, InvalidConfiguration, Rescue, open_listeners
from linkerd_proxy.grpc import Grpc, GrpcError, GrpcStatus, server_stream
from linkerd_proxy.grpc.workload_api import FETCH_X509_SVID, X509Svid, X509SvidResponse
from linkerd_proxy.mesh.spiffe import spiffe
from linkerd_proxy.testing import serving
from linkerd_proxy.tls.acceptance import Unusable, split_der
from linkerd_proxy.tls.authority import Authority
from linkerd_proxy.tls.workload_api import Spiffe
from tests.patience import PATIENCE

WEB = "spiffe://mesh.local/ns/default/sa/web"
DB = "spiffe://mesh.local/ns/default/sa/db"
START = datetime(2030, 1, 1, tzinfo=UTC)
DER = serialization.Encoding.DER


def wall():
    """The time of day, which Trio's clock moves."""
    return START + timedelta(seconds=trio.current_time())


def ders(certificates):
    return b"".join(one.public_bytes(DER) for one in certificates)


def svid(credentials, **changes):
    key = credentials.key.private_bytes(DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    fields = {
        "spiffe_id": credentials.name,
        "x509_svid": ders(credentials.chain),
        "x509_svid_key": key,
        "bundle": ders(credentials.anchors),
    }
    return X509Svid(**(fields | changes))


def message(*svids, **federated):
    bundles = {f"spiffe://{domain.replace('_', '.')}": bundle for domain, bundle in federated.items()}
    return X509SvidResponse(svids=svids, federated_bundles=bundles)


class Agent:
    """The agent's side. Messages are pushed by a test."""

    def __init__(self):
        self.authority = Authority.create(now=wall)
        self.asked = []
        self.at = []
        self.failing = None
        self._push, self._pushed = trio.open_memory_channel(100)

    @property
    def stack(self):
        return Grpc(server_stream(FETCH_X509_SVID, self.fetch), max_message=1 << 20)

    async def fetch(self, request, call):
        self.asked.append(call.metadata)
        self.at.append(trio.current_time())
        if self.failing is not None:
            raise self.failing
        async for pushed in self._pushed:
            if isinstance(pushed, GrpcError):
                raise pushed
            await call.send(pushed)

    def push(self, *pushed):
        for one in pushed:
            self._push.send_nowait(one)

    def identity(self, **settings):
        return Spiffe(self.stack, now=wall, dice=random.Random(1), **settings)


@pytest.fixture
async def agent(autojump_clock):
    return Agent()


async def test_the_first_identity_is_used_if_none_is_named(autojump_clock, agent):
    web = agent.authority.issue(WEB)
    agent.push(message(svid(web), svid(agent.authority.issue(DB))))
    async with agent.identity().open() as live:
        credentials = await live.wait_changed()
    assert (live.name, credentials.name) == (WEB, WEB)
    assert (credentials.chain, credentials.anchors) == (web.chain, web.anchors)
    assert credentials.key.public_key() == web.key.public_key()
    assert ("workload.spiffe.io", "true") in agent.asked[0]


async def test_the_named_identity_is_used_among_several(autojump_clock, agent):
    agent.push(message(svid(agent.authority.issue(WEB)), svid(agent.authority.issue(DB))))
    async with agent.identity(name=DB).open() as live:
        assert live.name == DB
        assert (await live.wait_changed()).name == DB


async def test_an_identity_that_is_not_there_is_waited_for(autojump_clock, agent, caplog):
    agent.push(message(svid(agent.authority.issue(WEB))))
    async with agent.identity(name=DB).open() as live:
        await trio.sleep(1)
        assert live.credentials is None
        assert f"the agent has no identity {DB}; it has {WEB}" in caplog.text
        agent.push(message(svid(agent.authority.issue(DB))))
        await live.wait_changed()
    assert len(agent.asked) == 1  # the stream went on


async def test_each_message_replaces_certificate_and_bundle(autojump_clock, agent):
    agent.push(message(svid(agent.authority.issue(WEB))))
    other = Authority.create(now=wall)
    async with agent.identity().open() as live:
        first = await live.wait_changed()
        agent.push(
            message(svid(agent.authority.issue(WEB), bundle=ders([*agent.authority.anchors, other.certificate])))
        )
        second = await live.wait_changed()
        assert second.anchors == (*first.anchors, other.certificate)
        agent.push(message(svid(other.issue(WEB))))
        third = await live.wait_changed()
        assert third.anchors == other.anchors


async def test_federated_bundles_are_kept_apart_from_the_domains_own(autojump_clock, agent):
    theirs = Authority.create("other.example", now=wall)
    agent.push(message(svid(agent.authority.issue(WEB)), other_example=ders(theirs.anchors)))
    async with agent.identity().open() as live:
        credentials = await live.wait_changed()
    assert credentials.anchors == agent.authority.anchors
    assert credentials.federated == {"other.example": theirs.anchors}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"bundle": b""}, "there is no trust anchor"),
        ({"x509_svid": b""}, "there is no certificate"),
        ({"x509_svid": b"\x30\x82\xff\xff"}, "cut off"),
        ({"x509_svid": b"garbage"}, "no DER"),
        ({"x509_svid_key": b"secret"}, "private key can't be read"),
        ({"spiffe_id": DB}, f"is {WEB}'s, not {DB}'s"),
        ({"spiffe_id": "web"}, "no SPIFFE ID"),
        ({"spiffe_id": "spiffe://mesh.local"}, "no SPIFFE ID"),
    ],
)
async def test_what_peers_would_not_accept_is_not_published(autojump_clock, agent, caplog, changes, text):
    good = message(svid(agent.authority.issue(WEB)))
    agent.push(good, message(svid(agent.authority.issue(WEB), **changes)))
    async with agent.identity().open() as live:
        first = await live.wait_changed()
        await trio.sleep(5)
        assert live.require() is first
        assert text in caplog.text
        assert "secret" not in caplog.text
        agent.push(good)
        assert await live.wait_changed() is not first


async def test_a_certificate_that_its_new_bundle_does_not_cover_is_not_used(autojump_clock, agent, caplog):
    other = Authority.create(now=wall)
    agent.push(message(svid(agent.authority.issue(WEB), bundle=ders(other.anchors))))
    async with agent.identity().open() as live:
        await trio.sleep(1)
        assert live.credentials is None
    assert "does not chain up to a trust anchor" in caplog.text


async def test_a_broken_stream_is_opened_again_and_the_certificate_stays_until_it_expires(autojump_clock, agent):
    agent.push(message(svid(agent.authority.issue(WEB, lifetime=600))))
    async with agent.identity().open() as live:
        first = await live.wait_changed()
        agent.failing = GrpcError(GrpcStatus.UNAVAILABLE, "down")
        agent.push(GrpcError(GrpcStatus.UNAVAILABLE, "restarting"))
        await trio.sleep(500)
        assert live.require() is first
        assert live.is_valid(wall())
        waits = [later - earlier for earlier, later in zip(agent.at, agent.at[1:], strict=False)]
        for wait, want in zip(waits, [0.1, 0.2, 0.4, 0.8, 1, 1, 1], strict=False):
            assert want - 1e-6 <= wait <= want * 1.1 + 0.01
        assert max(waits) <= 1.11
        await trio.sleep(101)
        assert not live.is_valid(wall())
        agent.failing = None
        agent.push(message(svid(agent.authority.issue(WEB))))
        assert await live.wait_changed() is not first


async def test_an_agent_that_ends_the_stream_well_is_asked_again(autojump_clock, agent):
    class Once(Agent):
        async def fetch(self, request, call):
            self.asked.append(None)
            await call.send(message(svid(self.authority.issue(WEB))))

    once = Once()
    async with once.identity().open() as live:
        await live.wait_changed()
        await live.wait_changed()
        await live.wait_changed()
    assert len(once.asked) == 3


async def test_a_request_that_the_agent_calls_wrong_is_not_repeated(autojump_clock, agent, caplog):
    agent.failing = GrpcError(GrpcStatus.INVALID_ARGUMENT, "security header missing")
    async with agent.identity().open() as live:
        await trio.sleep(100)
        assert live.credentials is None
    assert len(agent.asked) == 1
    assert "no further try" in caplog.text


# --- over real sockets -------------------------------------------------------------------------


def real_agent():
    """An authority of today."""
    return Authority.create()


async def test_our_own_agent_on_a_unix_socket(tmp_path, monkeypatch):
    authority = real_agent()
    more = trio.Event()

    async def fetch(request, call):
        await call.send(message(svid(authority.issue(WEB))))
        await more.wait()
        await call.send(message(svid(authority.issue(WEB))))
        await trio.sleep_forever()

    (listener,) = await open_listeners(f"unix:{tmp_path}/agent.sock")
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", f"unix://{tmp_path}/agent.sock")
    with trio.fail_after(PATIENCE):
        stack = Http() | Rescue() | Grpc(server_stream(FETCH_X509_SVID, fetch))
        async with serving(stack, listener), spiffe().open() as live:
            first = await live.wait_changed()
            more.set()
            second = await live.wait_changed()
    assert (first.name, second.name) == (WEB, WEB)
    assert first.chain != second.chain


class Grpcio:
    """A Workload API on grpcio, which pushes what a test puts in its queue."""

    def __init__(self, path):
        self.grpc = pytest.importorskip("grpc")
        self.pushed = queue.Queue()
        self.headers = []
        self.cancelled = threading.Event()
        self.server = self.grpc.server(futures.ThreadPoolExecutor(4), handlers=[self._handler()])
        assert self.server.add_insecure_port(f"unix:{path}")
        self.server.start()

    def _handler(self):
        agent = self

        class Handler(self.grpc.GenericRpcHandler):
            def service(self, call):
                if call.method == "/SpiffeWorkloadAPI/FetchX509SVID":
                    return agent.grpc.unary_stream_rpc_method_handler(agent.fetch)
                return None

        return Handler()

    def fetch(self, request, context):
        self.headers.append(dict(context.invocation_metadata()))
        context.add_callback(lambda: (self.cancelled.set(), self.pushed.put(None)))
        if dict(context.invocation_metadata()).get("workload.spiffe.io") != "true":
            context.abort(self.grpc.StatusCode.INVALID_ARGUMENT, "security header missing")
        while (one := self.pushed.get(timeout=PATIENCE)) is not None:
            yield one


async def test_an_agent_on_grpcio_on_a_unix_socket(tmp_path):
    authority = real_agent()
    path = f"{tmp_path}/agent.sock"
    agent = Grpcio(path)
    agent.pushed.put(message(svid(authority.issue(WEB))).SerializeToString())
    try:
        with trio.fail_after(PATIENCE):
            async with spiffe(f"unix://{path}", name=WEB).open() as live:
                first = await live.wait_changed()
                agent.pushed.put(message(svid(authority.issue(WEB))).SerializeToString())
                second = await live.wait_changed()
            assert await trio.to_thread.run_sync(agent.cancelled.wait, PATIENCE)  # closing it ends the stream
    finally:
        await trio.to_thread.run_sync(agent.server.stop(0).wait, PATIENCE)
    assert first.chain != second.chain
    assert len(agent.headers) == 1


async def test_an_agent_that_comes_later_is_found(tmp_path, caplog):
    path = f"{tmp_path}/agent.sock"
    authority = real_agent()

    async def fetch(request, call):
        await call.send(message(svid(authority.issue(WEB))))
        await trio.sleep_forever()

    with trio.fail_after(PATIENCE):
        async with spiffe(path).open() as live:
            while "there is no such socket" not in caplog.text:
                await trio.lowlevel.checkpoint()
            (listener,) = await open_listeners(f"unix:{path}")
            async with serving(Http() | Grpc(server_stream(FETCH_X509_SVID, fetch)), listener):
                await live.wait_changed()


# --- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "socket", ["unix:relative", "unix:///a?b", "tcp://example.org:80", "tcp:127.0.0.1:80", "http://127.0.0.1:80", "x"]
)
def test_what_is_no_endpoint_is_refused(socket):
    with pytest.raises(InvalidConfiguration, match=r"SPIFFE endpoint|no Unix socket"):
        spiffe(socket)


def test_nothing_that_says_where_is_refused(monkeypatch):
    monkeypatch.delenv("SPIFFE_ENDPOINT_SOCKET", raising=False)
    with pytest.raises(InvalidConfiguration, match="SPIFFE_ENDPOINT_SOCKET"):
        spiffe()


@pytest.mark.parametrize(
    ("socket", "shown"),
    [
        ("unix:///run/a.sock", "Connect('unix:/run/a.sock')"),
        ("unix:/run/a.sock", "Connect('unix:/run/a.sock')"),
        ("/run/a.sock", "Connect('unix:/run/a.sock')"),
        ("tcp://127.0.0.1:8081", "Connect('127.0.0.1:8081')"),
    ],
)
def test_endpoints_of_every_form(socket, shown):
    assert shown in repr(spiffe(socket))


def test_a_name_that_is_no_spiffe_id_is_refused():
    with pytest.raises(InvalidConfiguration, match="no SPIFFE ID"):
        Spiffe(Grpc(), name="web.mesh.local")


def test_certificates_one_after_the_other_are_told_apart():
    small, large = b"\x30\x01x", b"\x30\x82\x01\x00" + bytes(256)
    assert split_der(small + large + small) == [small, large, small]
    for broken in [small[:-1], b"\x31\x01x", b"\x30", b"\x30\x80", b"\x30\x85\0\0\0\0\0", large[:-1]]:
        with pytest.raises(Unusable):
            split_der(broken)
