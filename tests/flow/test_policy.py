"""Who may come in, proved by mutual TLS over loopback; and TLS passed on by the name that was asked for."""

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import trio

from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.policy import Authorization, Authorize, LivePolicy, ServerPolicy, TlsAuthenticated
from linkerd_proxy.route import TlsRoute
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.forward import Forward
from linkerd_proxy.testing import Authority, serving
from linkerd_proxy.tls.identity import Given
from linkerd_proxy.tls.originate import Originate
from linkerd_proxy.tls.terminate import Terminate
from tests.patience import PATIENCE

WEB = "web.ns.mesh.example"
API = "api.ns.mesh.example"
OTHER = "other.mesh.example"


@dataclass(frozen=True, slots=True)
class Hello(Stack[Connection]):
    """Sends back what comes, with its own name in front."""

    name: str

    @asynccontextmanager
    async def open(self):
        async def service(connection: Connection) -> None:
            async for data in connection.stream:
                await connection.stream.send_all(self.name.encode() + b" " + data)

        yield service


@pytest.fixture
def authority() -> Authority:
    return Authority()


def client(authority: Authority, identity: str, peer: str, address) -> Stack[Connection]:
    """Return the stack of a client's own proxy."""
    return Forward() | Originate(Given(authority.issue(identity)), peer=peer) | Connect(str(address))


async def said(stream: trio.SocketStream, data: bytes) -> bytes:
    """Send bytes, and return what comes back: nothing if the connection was cut."""
    with trio.fail_after(PATIENCE):
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            return bytes(await stream.receive_some())
        return b""


async def asked(stack: Stack[Connection], data: bytes) -> bytes:
    """Serve a stack, and ask it once."""
    async with serving(stack) as near, await trio.open_tcp_stream(near.host, near.port) as stream:
        return await said(stream, data)


def terminated() -> float:
    labels = {"srv_name": "", "authz_name": "", "tls": "mutual"}
    return current_registry().counter("inbound_tcp_authz_terminate_total", "", **labels).value


async def test_an_identity_is_let_in_and_put_out_again(authority: Authority) -> None:
    def may(*identities: str) -> ServerPolicy:
        return ServerPolicy([Authorization(authentication=TlsAuthenticated(identities))], loopback=False)

    live = LivePolicy(may(API, OTHER))
    server = Terminate(Given(authority.issue(WEB))) | Authorize[Connection](live) | Hello("web")
    async with (
        serving(server) as address,
        serving(client(authority, API, WEB, address)) as api,
        serving(client(authority, OTHER, WEB, address)) as other,
    ):
        one = await trio.open_tcp_stream(api.host, api.port)
        two = await trio.open_tcp_stream(other.host, other.port)
        async with one, two:
            assert [await said(one, b"1"), await said(two, b"2")] == [b"web 1", b"web 2"]
            live.publish(may(OTHER))
            assert [await said(one, b"3"), await said(two, b"4")] == [b"", b"web 4"]
            assert terminated() == 1
            async with await trio.open_tcp_stream(api.host, api.port) as late:
                assert await said(late, b"5") == b""


async def test_suffixes_of_identities_let_in(authority: Authority) -> None:
    policy = ServerPolicy(
        [Authorization(authentication=TlsAuthenticated(suffixes=["*.ns.mesh.example"]))], loopback=False
    )
    server = Terminate(Given(authority.issue(WEB))) | Authorize[Connection](policy) | Hello("web")
    async with serving(server) as address:
        for identity, expected in ((API, b"web x"), (OTHER, b"")):
            assert await asked(client(authority, identity, WEB, address), b"x") == expected


async def test_tls_is_passed_on_by_the_name_that_was_asked_for(authority: Authority) -> None:
    async with (
        serving(Terminate(Given(authority.issue(WEB))) | Hello("web")) as web,
        serving(Terminate(Given(authority.issue(API))) | Hello("api")) as api,
    ):
        route = TlsRoute({WEB: Forward() | Connect(str(web)), "*.ns.mesh.example": Forward() | Connect(str(api))})
        async with serving(route) as address:
            for peer, expected in ((WEB, b"web x"), (API, b"api x"), (OTHER, b"")):
                assert await asked(client(authority, OTHER, peer, address), b"x") == expected
