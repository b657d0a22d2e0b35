"""Who is let in, by network and by identity; and who is put out when the policy changes."""

import logging
from contextlib import suppress

import pytest
import trio
import trio.testing

from linkerd_proxy.address import Address, UnixAddress
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Connection, Exchange, Tls
from linkerd_proxy.errors import Denied, InvalidConfiguration
from linkerd_proxy.http.handler import handler
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.policy import (
    Authorization,
    Authorize,
    LivePolicy,
    Network,
    ServerPolicy,
    TlsAuthenticated,
    TlsUnauthenticated,
    Unauthenticated,
    default_policy,
)
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.forward import Forward
from linkerd_proxy.testing import call, check_layer, memory_connection, serving, tcp_origin
from tests.patience import PATIENCE

FAR = "192.0.2.7"
WEB = "web.prod.serviceaccount.identity.linkerd.cluster.local"
SPIFFE = "spiffe://cluster.local/ns/prod/sa/web"


def client(host: str = FAR, identity: str | None = None, *, tls: bool = False) -> Connection:
    established = Tls(peer_identity=identity) if tls or identity else None
    return memory_connection(peer=Address(host, 5000), tls=established)[1]


def admitted(policy: ServerPolicy, connection: Connection) -> bool:
    return policy.authorize(connection) is not None


def only(authentication) -> ServerPolicy:
    return ServerPolicy([Authorization(authentication=authentication)])


# --- Linkerd's matrix (linkerd/app/inbound/src/policy, linkerd/proxy/server-policy/src/authz.rs) --------------------


@pytest.mark.parametrize(
    ("authentication", "plain", "tls", "mutual", "spiffe"),
    [
        (Unauthenticated(), True, True, True, True),
        (TlsUnauthenticated(), False, True, True, True),
        (TlsAuthenticated(["*"]), False, False, True, True),
        (TlsAuthenticated([WEB]), False, False, True, False),
        (TlsAuthenticated([WEB.upper()]), False, False, True, False),
        (TlsAuthenticated([SPIFFE]), False, False, False, True),
        (TlsAuthenticated([SPIFFE.replace("web", "WEB")]), False, False, False, False),
        (TlsAuthenticated(["other.prod"]), False, False, False, False),
        (TlsAuthenticated(suffixes=["*.cluster.local"]), False, False, True, False),
        (TlsAuthenticated(suffixes=["cluster.local"]), False, False, True, False),
        (TlsAuthenticated(suffixes=["*.uster.local"]), False, False, False, False),
        (TlsAuthenticated(suffixes=[WEB]), False, False, False, False),
        (TlsAuthenticated(["other"], ["*.linkerd.cluster.local"]), False, False, True, False),
    ],
)
def test_the_matrix_of_authentications(authentication, plain, tls, mutual, spiffe) -> None:
    policy = only(authentication)
    assert admitted(policy, client()) is plain
    assert admitted(policy, client(tls=True)) is tls
    assert admitted(policy, client(identity=WEB)) is mutual
    assert admitted(policy, client(identity=SPIFFE)) is spiffe


def test_a_suffix_never_matches_a_uri() -> None:
    assert not admitted(only(TlsAuthenticated(suffixes=["*.local"])), client(identity="spiffe://a.local"))


@pytest.mark.parametrize(
    ("networks", "host", "expected"),
    [
        ([], FAR, True),
        (["192.0.2.0/24"], FAR, True),
        (["192.0.2.7"], FAR, True),
        (["198.51.100.0/24"], FAR, False),
        (["198.51.100.0/24", "192.0.2.0/24"], FAR, True),
        ([Network("192.0.2.0/24", ["192.0.2.0/28"])], FAR, False),
        ([Network("192.0.2.0/24", ["192.0.2.16/28"])], FAR, True),
        ([Network("192.0.2.0/24", [FAR]), Network("192.0.2.0/28")], FAR, True),
        (["0.0.0.0/0"], "2001:db8::1", False),
        (["::/0"], FAR, False),
        (["2001:db8::/32"], "2001:db8::1", True),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["192.0.2.0/24"], "::ffff:192.0.2.7", True),
    ],
)
def test_networks_and_their_exceptions(networks, host, expected) -> None:
    assert admitted(ServerPolicy([Authorization(networks)]), client(host)) is expected


def test_network_and_identity_must_both_fit() -> None:
    policy = ServerPolicy([Authorization(["192.0.2.0/24"], TlsAuthenticated([WEB]))])
    assert admitted(policy, client(FAR, WEB))
    assert not admitted(policy, client("198.51.100.1", WEB))
    assert not admitted(policy, client(FAR, SPIFFE))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_always_let_in_unless_told_otherwise(host) -> None:
    assert admitted(ServerPolicy(), client(host))
    assert not admitted(ServerPolicy(loopback=False), client(host))


def test_a_peer_whose_address_is_no_ip_address_is_not_taken_for_the_loopback() -> None:
    assert not admitted(ServerPolicy(), client("client.example"))


def test_a_unix_socket_counts_as_loopback_and_lies_in_no_network() -> None:
    connection = memory_connection(peer=UnixAddress("/run/app"))[1]
    assert admitted(ServerPolicy(), connection)
    assert not admitted(ServerPolicy([Authorization(["0.0.0.0/0"])], loopback=False), connection)
    assert admitted(ServerPolicy([Authorization()], loopback=False), connection)


@pytest.mark.parametrize(
    ("name", "far", "near", "far_mutual", "near_mutual"),
    [
        ("deny", False, False, False, False),
        ("audit", True, True, True, True),
        ("all-unauthenticated", True, True, True, True),
        ("all-authenticated", False, False, True, True),
        ("cluster-unauthenticated", False, True, False, True),
        ("cluster-authenticated", False, False, False, True),
    ],
)
def test_the_default_policies(name, far, near, far_mutual, near_mutual) -> None:
    policy = default_policy(name, ["10.0.0.0/8"])
    assert admitted(policy, client()) is far
    assert admitted(policy, client("10.1.2.3")) is near
    assert admitted(policy, client(identity=SPIFFE)) is far_mutual
    assert admitted(policy, client("10.1.2.3", WEB)) is near_mutual
    assert admitted(policy, client("127.0.0.1"))


# --- requests -------------------------------------------------------------------------------------------------------


async def hello(_: Request) -> Response:
    return Response(200, body=b"hello")


async def ask(service, connection: Connection) -> int:
    async with call(service, Request(), connection=connection) as response:
        return response.status


def counted(name: str, authz: str = "", tls: str = "none", server: str = "") -> float:
    return current_registry().counter(name, "", srv_name=server, authz_name=authz, tls=tls).value


async def test_every_request_is_judged_and_counted() -> None:
    live = LivePolicy(ServerPolicy([Authorization(authentication=TlsAuthenticated([WEB]), name="web")], "api"))
    async with opened(Rescue() | Authorize(live) | handler(hello)) as service:
        assert await ask(service, client(identity=WEB)) == 200
        assert await ask(service, client(identity=WEB)) == 200
        assert await ask(service, client()) == 403
        assert await ask(service, client(tls=True)) == 403
        assert await ask(service, client("127.0.0.1")) == 200
        assert counted("inbound_http_authz_allow_total", "web", "mutual", "api") == 2
        assert counted("inbound_http_authz_allow_total", "loopback", "none", "api") == 1
        assert counted("inbound_http_authz_deny_total", "", "none", "api") == 1
        assert counted("inbound_http_authz_deny_total", "", "tls", "api") == 1
        live.publish(ServerPolicy([Authorization(name="all")], "api"))
        assert await ask(service, client()) == 200
        live.publish(ServerPolicy())
        assert await ask(service, client(identity=WEB)) == 403


async def test_a_refusal_says_who_and_where() -> None:
    async with opened(Authorize(ServerPolicy(name="api")) | handler(hello)) as service:
        with pytest.raises(Denied) as caught:
            await ask(service, client(identity=WEB))
    assert str(caught.value) == (
        f"Authorize: client {WEB} at 192.0.2.7:5000 is not allowed to server 'api'; "
        "authorize the client's identity or network in the policy"
    )


async def test_remembered_verdicts_are_bounded() -> None:
    policy = ServerPolicy([Authorization(["10.0.0.0/8"])])
    async with opened(Rescue() | Authorize(policy) | handler(hello)) as service:
        for number in range(5000):
            assert await ask(service, client(f"10.0.{number // 250}.{number % 250}")) == 200
        assert await ask(service, client()) == 403


async def test_audit_lets_in_and_logs(caplog) -> None:
    policy = ServerPolicy([Authorization(["10.0.0.0/8"], name="cluster")], "api", audit=True)
    with caplog.at_level(logging.WARNING, "linkerd_proxy"):
        async with opened(Authorize(policy) | handler(hello)) as service:
            assert await ask(service, client("10.0.0.1")) == 200
            assert caplog.messages == []
            assert await ask(service, client()) == 200
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("AUDIT Authorize: client without an identity at 192.0.2.7:5000 is let in")
    assert counted("inbound_http_authz_allow_total", "audit", "none", "api") == 1


async def test_a_tunnel_ends_when_its_right_is_revoked(autojump_clock) -> None:
    live = LivePolicy(ServerPolicy([Authorization()]))

    async def forever(exchange: Exchange) -> None:
        await trio.sleep_forever()

    async with Authorize(live).open(forever) as service:
        connection = client()
        for request, ends in (
            (Request("CONNECT", ""), True),
            (Request("GET", upgrade="websocket"), True),
            (Request(), False),
        ):
            live.publish(ServerPolicy([Authorization()]))
            ended: list[Exception] = []

            async def run(request: Request = request, ended: list[Exception] = ended) -> None:
                try:
                    await service(Exchange(request, _nothing, connection))
                except Denied as error:
                    ended.append(error)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await trio.testing.wait_all_tasks_blocked()
                live.publish(ServerPolicy())
                await trio.testing.wait_all_tasks_blocked()
                assert bool(ended) is ends
                nursery.cancel_scope.cancel()


async def _nothing(_: Response) -> None: ...


# --- connections ----------------------------------------------------------------------------------------------------


async def test_a_connection_is_judged_when_it_comes() -> None:
    served: list[Connection] = []

    async def inner(connection: Connection) -> None:
        served.append(connection)

    async with Authorize[Connection](ServerPolicy([Authorization(name="a")])).open(inner) as service:
        await service(client())
    async with Authorize[Connection](ServerPolicy()).open(inner) as service:
        with pytest.raises(Denied):
            await service(client())
    assert len(served) == 1
    assert counted("inbound_tcp_authz_allow_total", "a") == 1
    assert counted("inbound_tcp_authz_deny_total") == 1


async def test_a_live_connection_ends_when_and_only_when_its_right_is_revoked() -> None:
    live = LivePolicy(ServerPolicy([Authorization(["192.0.2.0/24"]), Authorization(["198.51.100.0/24"])]))
    ended: dict[str, Exception | None] = {}

    async def forever(connection: Connection) -> None:
        await trio.sleep_forever()

    async with Authorize[Connection](live).open(forever) as service, trio.open_nursery() as nursery:

        async def run(host: str) -> None:
            try:
                await service(client(host))
            except Denied as error:
                ended[host] = error

        nursery.start_soon(run, FAR)
        nursery.start_soon(run, "198.51.100.1")
        await trio.testing.wait_all_tasks_blocked()
        live.publish(ServerPolicy([Authorization(), Authorization(["10.0.0.0/8"])]))
        await trio.testing.wait_all_tasks_blocked()
        assert ended == {}
        live.publish(ServerPolicy([Authorization(["198.51.100.0/24"])]))
        await trio.testing.wait_all_tasks_blocked()
        assert list(ended) == [FAR]
        assert "is no longer allowed" in str(ended[FAR])
        assert counted("inbound_tcp_authz_terminate_total") == 1
        nursery.cancel_scope.cancel()
    assert list(ended) == [FAR]


async def test_a_connection_that_has_ended_is_watched_no_more() -> None:
    live = LivePolicy(ServerPolicy([Authorization()]))

    async def inner(_: Connection) -> None: ...

    async with Authorize[Connection](live).open(inner) as service:
        await service(client())
    live.publish(ServerPolicy())
    assert counted("inbound_tcp_authz_terminate_total") == 0


async def test_a_relay_over_sockets_is_cut_when_its_right_is_revoked() -> None:
    live = LivePolicy(ServerPolicy([Authorization(["127.0.0.0/8"])], loopback=False))
    async with tcp_origin() as origin:
        stack = Authorize[Connection](live) | Forward() | Connect(str(origin.address))
        async with serving(stack) as address:
            with trio.fail_after(PATIENCE):
                stream = await trio.open_tcp_stream(address.host, address.port)
                await stream.send_all(b"through")
                assert await stream.receive_some() == b"through"
                live.publish(ServerPolicy([Authorization(["127.0.0.1"])], loopback=False))
                await stream.send_all(b"still")
                assert await stream.receive_some() == b"still"
                live.publish(ServerPolicy(loopback=False))
                with suppress(trio.BrokenResourceError):
                    assert await stream.receive_some() == b""
                await stream.aclose()
                late = await trio.open_tcp_stream(address.host, address.port)
                with suppress(trio.BrokenResourceError):
                    assert await late.receive_some() == b""
                await late.aclose()
        assert counted("inbound_tcp_authz_terminate_total") == 1
        assert counted("inbound_tcp_authz_deny_total") == 1
        assert origin.connections == 1


async def test_an_http_server_answers_403_over_sockets() -> None:
    stack = Http() | Rescue() | Authorize(ServerPolicy(loopback=False)) | handler(hello)
    async with serving(stack) as address:
        with trio.fail_after(PATIENCE):
            stream = await trio.open_tcp_stream(address.host, address.port)
            await stream.send_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            answer = b"".join([chunk async for chunk in stream])
            await stream.aclose()
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"\r\nl5d-proxy-error: AD Authorize: client without an identity at 127.0.0.1:" in answer


async def test_two_layers_share_a_policy_that_changes() -> None:
    live = LivePolicy(ServerPolicy())
    async with (
        opened(Rescue() | Authorize(live) | handler(hello)) as one,
        opened(Rescue() | Authorize(live) | handler(hello)) as two,
    ):
        live.publish(ServerPolicy([Authorization()]))
        assert [await ask(service, client()) for service in (one, two)] == [200, 200]


async def test_it_is_a_layer() -> None:
    def make() -> Exchange:
        return Exchange(Request(), _nothing, client())

    policy = ServerPolicy([Authorization(["192.0.2.0/24"])])
    await check_layer(Authorize(policy), make)
    await check_layer(Authorize[Connection](policy), client)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Authorization(["10.0.0.1/8"]), "'10.0.0.1/8' is no network"),
        (lambda: Network("10.0.0.0/8", ["x"]), "'x' is no network"),
        (lambda: TlsAuthenticated(), "admits nobody"),
        (lambda: TlsAuthenticated(suffixes=["*"]), "no suffix"),
        (lambda: default_policy("allow"), "is no default policy: write one of deny, "),  # type: ignore[arg-type]
        (lambda: default_policy("cluster-authenticated"), "needs the networks of the cluster"),
    ],
)
def test_what_can_not_be_is_refused(build, text) -> None:
    with pytest.raises(InvalidConfiguration, match=text):
        build()
