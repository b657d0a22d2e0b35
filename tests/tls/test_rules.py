"""Terminate and Originate keep the rules of all layers, tell when they are ready, and can be cancelled anywhere."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
import trio

from linkerd_proxy import Dial, Target
from linkerd_proxy.core.ready import hearing_ready
from linkerd_proxy.testing import check_layer, memory_connection
from linkerd_proxy.tls import identity as identity_module
from linkerd_proxy.tls.files import Files
from linkerd_proxy.tls.identity import Given, Identity, LiveIdentity
from linkerd_proxy.tls.originate import Originate
from linkerd_proxy.tls.terminate import Terminate
from tests.io.test_client_hello import real_hello
from tests.tls.conftest import WEB, issuer_pem

HELLO = real_hello("elsewhere.example")


class Full(trio.abc.HalfCloseableStream):
    """A stream on which everything is there already, so that nothing waits."""

    def __init__(self, data):
        self.data = data

    async def receive_some(self, max_bytes=None):
        await trio.lowlevel.checkpoint()
        data, self.data = self.data[:max_bytes], self.data[max_bytes or len(self.data) :]
        return data

    async def send_all(self, data):
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self):
        await trio.lowlevel.checkpoint()

    async def send_eof(self):
        await trio.lowlevel.checkpoint()

    async def aclose(self):
        await trio.lowlevel.checkpoint()


def connection(data):
    made = memory_connection()[1]
    made.stream = Full(data)
    return made


@pytest.fixture
def files(issuer, tmp_path):
    """An identity that can be written down, as the rules want of a layer."""
    certificate, key = issuer.issue(WEB).pem
    for name, data in (("cert.pem", certificate), ("key.pem", key), ("ca.pem", issuer_pem(issuer))):
        (tmp_path / name).write_bytes(data)
    return Files(str(tmp_path))


@pytest.mark.parametrize("data", [HELLO, b"GET / HTTP/1.1\r\n\r\n", b""])
async def test_terminate_keeps_the_rules_for_what_passes_through(files, data):
    layer = Terminate(files, timeout=3.0, max_handshakes=7)
    await check_layer(layer, lambda: connection(data))


async def test_originate_keeps_the_rules_for_what_is_dialled_in_the_clear(files):
    async def use(_stream):
        pass

    await check_layer(Originate(files, timeout=3.0), lambda: Dial(Target(), use))


@dataclass(frozen=True, eq=False)
class Manual(Identity):
    live: LiveIdentity = field(default_factory=lambda: LiveIdentity(WEB))

    @asynccontextmanager
    async def open(self):
        yield self.live


@pytest.mark.parametrize("kind", [Terminate, Originate])
async def test_both_are_ready_while_there_is_a_valid_certificate(issuer, kind, monkeypatch):
    credentials = issuer.credentials(WEB)
    now = datetime.now(UTC)

    class Clock:
        @staticmethod
        def now(_zone):
            return now

    monkeypatch.setattr(identity_module, "datetime", Clock)
    identity = Manual()
    with hearing_ready() as heard:
        async with kind(identity).open(ignore):
            (ready,) = heard
            assert not ready()
            identity.live.publish(credentials)
            assert ready()
            now = credentials.not_after
            assert not ready()
            identity.live.publish(issuer.credentials(WEB))
            now = datetime.now(UTC)
            assert ready()


async def test_a_host_needs_no_credentials_to_be_ready():
    with hearing_ready() as heard:
        async with Originate(host="a.example").open(ignore):
            assert heard == []


async def ignore(_work):
    pass


class Counting(Full):
    """Hands out one byte a receive, and is cancelled at a given one."""

    def __init__(self, data, at, scope):
        super().__init__(data)
        self.left = at
        self.scope = scope

    async def receive_some(self, max_bytes=None):
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()
        return await super().receive_some(1)


async def test_the_wait_for_a_hello_can_be_cancelled_at_every_byte(issuer):
    data = real_hello("elsewhere.example")
    async with Terminate(Given(issuer.credentials(WEB))).open(ignore) as serve:
        for at in range(1, len(data) + 1):
            with trio.CancelScope() as scope:
                made = connection(data)
                made.stream = Counting(data, at, scope)
                await serve(made)
            assert scope.cancelled_caught
            assert made.stream.left == 0  # and nothing was asked for after it
