"""Programs that we did not write, as peers: openssl's own client and server."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import trio

from linkerd_proxy import Dial, Target, open_listeners, serve
from linkerd_proxy.address import parse_address
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tls.identity import Given
from linkerd_proxy.tls.originate import Originate
from linkerd_proxy.tls.terminate import Terminate
from tests.patience import PATIENCE
from tests.tls.conftest import API, WEB, issuer_pem

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl: apt install openssl")


@pytest.fixture
def pem(issuer, tmp_path):
    """Write the certificates of a peer, and return the options that name them."""
    chain, key = issuer.issue(API).pem
    (tmp_path / "cert.pem").write_bytes(chain)
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "ca.pem").write_bytes(issuer_pem(issuer))
    return ["-cert", tmp_path / "cert.pem", "-key", tmp_path / "key.pem", "-CAfile", tmp_path / "ca.pem"]


def shouting(seen):
    """Return a leaf that answers in capitals."""
    from contextlib import asynccontextmanager
    from dataclasses import dataclass

    from linkerd_proxy import Connection, Stack

    @dataclass(frozen=True, slots=True)
    class Shout(Stack[Connection]):
        @asynccontextmanager
        async def open(self):
            async def shout(connection):
                seen.append(connection.tls)
                while data := await connection.stream.receive_some():
                    await connection.stream.send_all(data.upper())

            yield shout

    return Shout()


async def test_s_client_is_served_and_known(issuer, pem):
    seen = []
    listeners = await open_listeners("127.0.0.1:0")
    async with trio.open_nursery() as nursery:
        await nursery.start(
            serve, Terminate(Given(issuer.credentials(WEB)), require_identity=True) | shouting(seen), listeners
        )
        command = ["openssl", "s_client", "-quiet", "-connect", str(listeners[0].address), "-servername", WEB]
        command += ["-verify_return_error", "-alpn", "transport.l5d.io/v1", *map(str, pem)]
        async with openssl(command) as process:
            await process.stdin.send_all(b"hello openssl\n")
            assert await said(process, b"HELLO OPENSSL\n")
        nursery.cancel_scope.cancel()
    (tls,) = seen
    assert (tls.peer_identity, tls.server_name, tls.alpn) == (API, WEB, "transport.l5d.io/v1")


async def test_s_server_is_dialled_and_proves_itself(issuer, pem):
    command = [
        "openssl",
        "s_server",
        "-accept",
        "127.0.0.1:0",
        "-rev",
        "-Verify",
        "3",
        "-verify_return_error",
        *map(str, pem),
    ]
    async with openssl(command) as process:
        text = await said(process, b"ACCEPT 127.0.0.1:")
        while b"\n" not in text.partition(b"ACCEPT ")[2]:
            text += await process.stdout.receive_some()
        address = text.partition(b"ACCEPT ")[2].split()[0].decode()
        answers = []

        async def use(stream):
            await stream.send_all(b"hello\n")
            answers.append(await stream.receive_some())

        async with (Originate(Given(issuer.credentials(WEB))) | Connect()).open() as service:
            with trio.fail_after(PATIENCE):
                await service(Dial(Target(parse_address(address), identity=API), use))
    assert answers == [b"olleh\n"]


class openssl:  # noqa: N801  # reads as the program
    def __init__(self, command):
        self.command = command

    async def __aenter__(self):
        self.process = await trio.lowlevel.open_process(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        return self.process

    async def __aexit__(self, *_):
        with trio.CancelScope(shield=True):
            self.process.kill()
            await self.process.wait()
            await self.process.stdin.aclose()
            await self.process.stdout.aclose()


async def said(process, expected):
    """Return what a program said up to some text."""
    text = b""
    with trio.fail_after(PATIENCE):
        while expected not in text:
            chunk = await process.stdout.receive_some()
            assert chunk, text
            text += chunk
    return text
