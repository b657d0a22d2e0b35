"""Handshakes in pieces, left half open, by the thousand, and while certificates change."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import memory_stream_pair

from linkerd_proxy import Dial, Target
from linkerd_proxy.core.contain import contained
from linkerd_proxy.core.shared import hosting
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.testing import memory_connection
from linkerd_proxy.tls.context import mesh_context
from linkerd_proxy.tls.crowd import Crowd
from linkerd_proxy.tls.handshake import shake
from linkerd_proxy.tls.identity import Given, Identity, LiveIdentity
from linkerd_proxy.tls.openssl import OpenSSLEngine
from linkerd_proxy.tls.originate import Originate
from linkerd_proxy.tls.refusal import Refused
from linkerd_proxy.tls.terminate import Terminate
from linkerd_proxy.tls.verify import Verification
from tests.patience import PATIENCE
from tests.tls.conftest import API, WEB


async def answer(connection):
    await connection.stream.send_all(b"served " + await connection.stream.receive_some())


def client_of(issuer):
    context = mesh_context(issuer.credentials(API), "client")
    return lambda: OpenSSLEngine(context, server=False, server_name=WEB, verification=Verification(WEB))


async def ask(stream, engine):
    """Be a good client, and return the answer."""
    inside = await shake(stream, engine)
    await inside.send_all(b"me")
    received = await inside.receive_some()
    await inside.aclose()
    return received


class InPieces(trio.abc.HalfCloseableStream):
    """Sends in segments of one byte, and the first record's content in records of ``size`` bytes."""

    def __init__(self, stream, size):
        self.stream = stream
        self.size = size

    async def send_all(self, data):
        data = bytes(data)
        if self.size and data[0] == 22:
            length = int.from_bytes(data[3:5], "big")
            content, rest = data[5 : 5 + length], data[5 + length :]
            pieces = (content[at : at + self.size] for at in range(0, length, self.size))
            data = b"".join(data[:3] + len(one).to_bytes(2, "big") + one for one in pieces) + rest
            self.size = 0
        for at in range(len(data)):
            await self.stream.send_all(data[at : at + 1])

    async def receive_some(self, max_bytes=None):
        return await self.stream.receive_some(max_bytes)

    async def wait_send_all_might_not_block(self):
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self):
        await self.stream.send_eof()

    async def aclose(self):
        await self.stream.aclose()


@pytest.mark.parametrize("size", [0, 1, 100])
async def test_a_client_hello_in_the_smallest_pieces_is_one(issuer, size):
    ours, connection = memory_connection()
    async with Terminate(Given(issuer.credentials(WEB))).open(answer) as serve, trio.open_nursery() as nursery:
        nursery.start_soon(contained, serve, connection)
        with trio.fail_after(PATIENCE):
            assert await ask(InPieces(ours, size), client_of(issuer)()) == b"served me"


async def test_a_thousand_half_open_handshakes_do_not_stop_a_good_client(issuer, autojump_clock):
    engine = client_of(issuer)
    identity = Given(issuer.credentials(WEB))
    half_open = engine()
    half_open.handshake()
    hello = half_open.take()
    async with Terminate(identity).open(answer) as serve, trio.open_nursery() as nursery:
        for _ in range(1000):
            ours, connection = memory_connection()
            await ours.send_all(hello)
            nursery.start_soon(contained, serve, connection)
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        ours, connection = memory_connection()
        nursery.start_soon(contained, serve, connection)
        assert await ask(ours, engine()) == b"served me"
        assert trio.current_time() - started < 0.1
    failures = {
        dict(labels)["reason"]: int(series.value)
        for family in current_registry()
        if family.name == "tls_handshake_failures_total"
        for labels, series in family.series.items()
    }
    assert failures["timeout"] + failures["crowded"] == 1000


async def test_those_who_have_waited_long_give_way_and_newcomers_never_wait(autojump_clock):
    crowd = Crowd(2)
    ended = []

    async def join(name):
        with trio.CancelScope() as scope:
            crowd.join(scope, trio.current_time())
            try:
                await trio.sleep(100)
            finally:
                if not crowd.leave(scope):
                    ended.append(name)

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(join, name)
            await trio.testing.wait_all_tasks_blocked()
        assert len(crowd) == 3  # nobody is older than a second
        await trio.sleep(2)
        nursery.start_soon(join, "d")
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(ended) == ["a", "b"]
        for _ in range(30):
            nursery.start_soon(join, "flood")
        await trio.testing.wait_all_tasks_blocked()
        assert len(crowd) == 20  # ten times the bound, whatever their age
        nursery.cancel_scope.cancel()
    assert len(crowd) == 0


class Live(Identity):
    def __init__(self, live):
        self.live = live

    @asynccontextmanager
    async def open(self):
        yield self.live


async def echo(connection):
    while data := await connection.stream.receive_some():
        await connection.stream.send_all(data)


async def turn_over(issuer, *identities):
    """Publish new credentials of each identity in turn, twenty times in all."""
    for turn in range(20):
        live = identities[turn % len(identities)]
        live.publish(issuer.credentials(live.name))
        for _ in range(50):
            await trio.lowlevel.checkpoint()


async def test_no_request_fails_while_certificates_change_under_load(issuer):
    web = LiveIdentity(WEB, issuer.credentials(WEB))
    api = LiveIdentity(API, issuer.credentials(API))

    served = 0
    stopped = False

    async with Terminate(Live(web)).open(echo) as serve, hosting(), trio.open_nursery() as nursery:

        async def connect(dial):
            ours, theirs = memory_connection()
            nursery.start_soon(contained, serve, theirs)
            await dial.use(ours)

        async def use(stream):
            nonlocal served
            for _ in range(20):
                await stream.send_all(b"x" * 1000)
                assert len(await stream.receive_some()) == 1000  # one record, one segment
                served += 1

        async def load(service):
            while not stopped:
                await service(Dial(Target(identity=WEB), use))

        async with Originate(Live(api)).open(connect) as service, trio.open_nursery() as clients:
            for _ in range(5):
                clients.start_soon(load, service)
            await turn_over(issuer, web, api)
            stopped = True
    assert served >= 100
    assert not [family for family in current_registry() if family.name == "tls_handshake_failures_total"]


async def test_bytes_that_are_no_tls_end_it_at_once(issuer):
    for junk in (
        b"\x16\x03\x01\xff\xff",
        b"\x15\x03\x03\x00\x02\x02\x28" * 1000,
        b"\x80\x2e\x01\x00\x02",
        b"\x00" * 64,
    ):
        first, second = memory_stream_pair()
        await second.send_all(junk)
        await second.send_eof()
        engine = OpenSSLEngine(mesh_context(issuer.credentials(WEB), "server"), server=True)
        with pytest.raises(Refused):
            await shake(first, engine)
