"""Sections of a configuration that are about the mesh, each over real sockets: gateways, and peers by destination."""

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio

from linkerd_proxy.address import Address
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import Layer, opened
from linkerd_proxy.core.work import Dial, Target
from linkerd_proxy.document.load import parse
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.upgrade import Upgrade
from linkerd_proxy.io.dial import dial
from linkerd_proxy.io.transport_header import ALPN
from linkerd_proxy.mesh.config.build import build
from linkerd_proxy.mesh.config.read import structure
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.transport_header import SendTransportHeader
from linkerd_proxy.testing import Authority, call, echo, http_origin, tcp_origin
from linkerd_proxy.tls.identity import Given
from linkerd_proxy.tls.originate import Originate
from tests.mesh.config.serving import document, served, write_identity

GATEWAY, WEB, API = "gateway.mesh.local", "web.mesh.local", "api.mesh.local"


@pytest.fixture
def authority(tmp_path):
    made = Authority()
    for name in (GATEWAY, WEB, API):
        write_identity(tmp_path / name.partition(".")[0], made, name)
    return made


def told(entry):
    """Return what is wrong with a document."""
    _, problems = structure(parse(json.dumps(entry), "p.json"), "p.json")
    return [one.text for one in problems]


async def tell(request):
    """Answer with what came."""
    seen = {name: request.headers.get(name) for name in ("forwarded", "l5d-client-id")}
    return Response(200, (), f"{request.version} {request.authority} {seen}".encode())


# --- gateways ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beyond(Layer[Dial, Dial]):
    """Says what to ask the gateway for."""

    target: Target

    async def serve(self, work, inner):
        await inner(replace(work, target=replace(self.target, protocol=work.target.protocol)))


def gateway_file(**gateway):
    listener = {
        "address": "127.0.0.1:0",
        "tls": {"require_identity": True},
        "gateway": {"suffixes": ["localhost"]} | gateway,
    }
    return {"identity": {"directory": "gateway"}, "listeners": {"gateway": listener}}


@asynccontextmanager
async def way_through(authority, base, entry):
    """Serve a file with a gateway, and yield a way through it for a name and a port, as a peer's proxy goes it."""
    async with served(entry, base) as where:

        def way(beyond, name=WEB):
            target = Target(where["gateway"], GATEWAY, beyond=beyond)
            tls = Originate(Given(authority.issue(name)), alpn=(ALPN,))
            return Beyond(target) | SendTransportHeader() | tls | Connect()

        yield way


async def ask(dial_, headers=()):
    request = Request("GET", "/", headers, authority="whoever.example")
    async with call(Upgrade() | Client(protocol="h2") | dial_, request) as response:
        return response.status, (await response.body.read()).decode()


async def test_a_gateway_leads_requests_and_connections_on_and_none_in_a_circle(authority, tmp_path) -> None:
    async with (
        http_origin(tell) as web,
        tcp_origin(echo) as raw,
        way_through(authority, tmp_path, gateway_file(local=True)) as way,
    ):
        beyond = Address("localhost", web.address.port)
        status, body = await ask(way(beyond))
        assert status == 200
        assert f"by={GATEWAY}" in body.replace('"', "")
        assert (await ask(way(Address("elsewhere.example", 80))))[0] == 404
        assert (await ask(way(beyond), [("forwarded", f"by={GATEWAY}")]))[0] == 508
        assert (await ask(way(beyond, GATEWAY)))[0] == 508
        assert len(web.requests) == 1

        async def use(stream):
            await stream.send_all(b"there and back")
            await stream.send_eof()
            assert b"".join([data async for data in stream]) == b"there and back"

        async with opened(way(Address("localhost", raw.address.port))) as service:
            await service(Dial(Target(), use))


async def test_a_gateway_leads_to_its_own_host_only_if_the_file_says_so(authority, tmp_path) -> None:
    async with http_origin(tell) as web, way_through(authority, tmp_path, gateway_file()) as way:
        assert (await ask(way(Address("localhost", web.address.port))))[0] == 403
        assert web.requests == []


async def test_a_gateway_that_is_nothing_else_refuses_what_is_meant_for_here(authority, tmp_path) -> None:
    async with served(gateway_file(), tmp_path) as where:
        tls = Originate(Given(authority.issue(WEB)), GATEWAY)

        async def use(stream):
            await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            with pytest.raises(trio.BrokenResourceError):
                assert await stream.receive_some() != b""

        async with opened(tls | Connect(where["gateway"])) as service:
            await service(Dial(Target(), use))


async def test_who_may_not_use_the_listener_is_not_led_on(authority, tmp_path) -> None:
    entry = gateway_file(local=True)
    entry["listeners"]["gateway"]["policy"] = {"loopback": False, "authorizations": [{"identities": [WEB]}]}
    async with http_origin(tell) as web, way_through(authority, tmp_path, entry) as way:
        beyond = Address("localhost", web.address.port)
        assert (await ask(way(beyond)))[0] == 200
        try:
            status, _ = await ask(way(beyond, API))
        except Exception as error:  # the connection is refused, however the client's stack calls that
            status = getattr(error, "status", 502)
        assert status in {403, 502}
        assert len(web.requests) == 1


async def test_a_gateway_reaches_peers_by_the_mesh(authority, tmp_path) -> None:
    async with http_origin(tell) as web:
        inbound = {
            "identity": {"directory": "api"},
            "listeners": {"in": {"address": "127.0.0.1:0", "tls": {"require_identity": True}, "backend_refs": ["app"]}},
            "backends": {"app": {"endpoints": [str(web.address)]}},
        }
        async with served(inbound, tmp_path) as where:
            peers = {"localhost": {"identity": API, "tagged_port": where["in"].port}}
            async with way_through(authority, tmp_path, gateway_file(peers=peers, name=GATEWAY)) as way:
                status, body = await ask(way(Address("localhost", web.address.port)))
    assert status == 200
    assert f"'l5d-client-id': '{GATEWAY}'" in body


@pytest.mark.parametrize(
    ("listener", "words"),
    [
        ({"tls": None}, "a gateway is for proxies of the mesh"),
        ({"tls": {"certificate": "a", "key": "b"}}, "a gateway is for proxies of the mesh"),
        ({"tls": {"required": False}}, "leave out required: false"),
        ({"gateway": {"suffixes": []}}, "leads nowhere"),
        ({"gateway": {"sufixes": ["a"]}}, "did you mean 'suffixes'?"),
        ({"gateway": {"suffixes": ["a"], "name": "*"}}, "a wildcard names nobody"),
        ({"gateway": {"suffixes": ["a"], "peers": {"no port": "b.c"}}}, "no port"),
        ({"gateway": {"suffixes": ["a"], "peers": {"a.b": "b.c", "a.b:0": "b.c"}}}, "are the same"),
        ({"gateway": {"suffixes": ["a"], "peers": {"a.b": "B"}}}, "upper-case"),
        ({"gateway": {"suffixes": ["a"], "connect_timeout": "0s"}}, "never connects"),
    ],
)
def test_gateways_that_can_not_be_are_told(listener, words) -> None:
    entry = gateway_file()
    entry["listeners"]["gateway"] |= listener
    if listener.get("tls", 1) is None:
        del entry["listeners"]["gateway"]["tls"]
    assert any(words in text for text in told(entry)), told(entry)


def test_a_gateways_own_name_is_found_or_asked_for(authority, tmp_path) -> None:
    entry = gateway_file()
    assert f"identity='{GATEWAY}'" in str(build(document(entry), base=tmp_path))
    with pytest.raises(InvalidConfiguration, match=r"cert\.pem"):
        build(document(entry), base=tmp_path / "nowhere")
    entry["identity"] = {"spiffe": "unix:///run/agent.sock"}
    with pytest.raises(InvalidConfiguration, match=r"give identity\.name, or gateway\.name"):
        build(document(entry))
    entry["identity"]["name"] = "spiffe://mesh.local/gateway"
    assert "identity='spiffe://mesh.local/gateway'" in str(build(document(entry)))


# --- peers ---------------------------------------------------------------------------------------


async def test_work_goes_by_the_mesh_where_its_destination_is_a_peer(authority, tmp_path) -> None:
    async with http_origin(tell) as web, http_origin(tell) as other, tcp_origin(echo) as raw:
        inbound = {
            "identity": {"directory": "api"},
            "listeners": {
                "web": {"address": "127.0.0.1:0", "tls": {"require_identity": True}, "backend_refs": ["web"]},
                "raw": {"address": "127.0.0.1:0", "tls": {"require_identity": True}, "backend_refs": ["raw"]},
            },
            "backends": {"web": {"endpoints": [str(web.address)]}, "raw": {"endpoints": [str(raw.address)]}},
        }
        async with served(inbound, tmp_path) as inside:
            peers = {
                "127.0.0.1:1001": {"identity": API, "tagged_port": inside["web"].port},
                "127.0.0.1:1002": {"identity": API, "tagged_port": inside["raw"].port},
            }
            outbound = {
                "identity": {"directory": "web"},
                # Where a connection was going is told by a PROXY header here, as the kernel tells it elsewhere.
                "listeners": {"out": {"address": "127.0.0.1:0", "proxy_protocol": {}, "backend_refs": ["mesh"]}},
                "backends": {"mesh": {"original_dst": True, "peers": peers}},
            }
            async with served(outbound, tmp_path) as outside:

                async def through(port, data):
                    async with await dial(outside["out"]) as stream:
                        await stream.send_all(f"PROXY TCP4 127.0.0.1 127.0.0.1 5 {port}\r\n".encode() + data)
                        await stream.send_eof()
                        return b"".join([part async for part in stream]).decode()

                get = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
                assert f"'l5d-client-id': '{WEB}'" in await through(1001, get)
                assert "'l5d-client-id': None" in await through(other.address.port, get)
                assert await through(1002, b"\0 there and back") == "\0 there and back"
                assert await through(raw.address.port, b"\0 in the clear") == "\0 in the clear"


def test_peers_take_an_identity_of_the_proxys_own() -> None:
    backend = {"original_dst": True, "peers": {"10.0.0.1": API}}
    entry = {"listeners": {"out": {"address": ":1", "backend_refs": ["mesh"]}}, "backends": {"mesh": backend}}
    assert any("the proxy has no identity" in text for text in told(entry))
    backend["peers"] = {"10.0.0.1": {"identity": API}}
    assert any("the proxy has no identity" in text for text in told(entry))


# --- identities ----------------------------------------------------------------------------------


def test_an_identity_may_be_certified_over_the_network(authority, tmp_path) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.roots)
    said = {"address": "127.0.0.1:8080", "name": WEB, "anchors": "ca.pem", "token_file": "token"}
    entry = gateway_file()
    entry["identity"] = {"authority": said}
    shown = str(build(document(entry), base=tmp_path))
    assert f"Certify({WEB!r}, Client(protocol='h2') | Connect('127.0.0.1:8080')" in shown
    assert f"'{tmp_path}/token'" in shown
    assert f"GatewayRequests(identity='{WEB}'" in shown
    entry["identity"]["authority"] = said | {"address": "a.example:8080", "server_name": "authority.mesh.local"}
    assert "host='authority.mesh.local'" in str(build(document(entry), base=tmp_path))
    entry["identity"]["authority"] = said | {"address": "a.example:8080"}
    assert "say in server_name what it proves to be" in told(entry)[0]
    entry["identity"]["authority"] = said | {"name": "*"}
    assert "a wildcard names nobody" in told(entry)[0]
    entry["identity"] = {"authority": said, "directory": "x"}
    assert "an identity has one source" in told(entry)[0]
