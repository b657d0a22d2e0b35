"""A mesh in two lines: two processes, and identities from an authority of one's own."""

import json
import os
import signal
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from linkerd_proxy.core.message import Response
from linkerd_proxy.io.dial import dial
from linkerd_proxy.testing import http_origin


def linkerd_proxy(*arguments):
    subprocess.run([sys.executable, "-m", "linkerd_proxy", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def identities(tmp_path_factory):
    """Return a directory with an authority's identities web and api, and with a stranger's."""
    where = tmp_path_factory.mktemp("mesh")
    for authority, names in (("ca", ("web", "api")), ("other", ("stranger",))):
        linkerd_proxy("authority", "init", str(where / authority), "--trust-domain", "mesh.local")
        for name in names:
            linkerd_proxy(
                "authority", "issue", str(where / authority), f"{name}.mesh.local", "--out", str(where / name)
            )
    return where


@asynccontextmanager
async def two_lines(command, identities, target, *options, asks_as="web", expects="api.mesh.local"):
    server = ("--listen", "127.0.0.1:0", "--to", str(target), "--identity", str(identities / "api"))
    async with command("run", *server, "--require-identity", "--admin", "127.0.0.1:0", *options) as api:
        address = str(await api.address())
        client = ("--listen", "127.0.0.1:0", "--to", address, "--identity", str(identities / asks_as))
        async with command("run", *client, "--peer-identity", expects) as web:
            yield await web.address(), api


async def told(request):
    client = request.headers.get("l5d-client-id")
    return Response(200, (), f"{client} asked in {request.version}".encode())


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
async def test_two_lines_are_a_mesh(command, fetch, series, identities, options):
    async with http_origin(told) as origin, two_lines(command, identities, origin.address, *options) as (address, api):
        for _ in range(3):
            assert await fetch(address, headers="l5d-client-id: admin\r\n") == (200, b"web.mesh.local asked in 1.1")
        admin = await api.address("admin")
        assert await fetch(admin, "/ready") == (200, b"ready\n")
        text = (await fetch(admin, "/metrics"))[1].decode()
        (labels,) = series(text, "request_total")
        assert 'client_id="web.mesh.local"' in labels
        assert 'tls="true"' in labels
        api.signal()
        assert await api.ended() == 0


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
async def test_the_live_view_calls_a_proxy_by_its_identity(command, run_command, identities, options):
    arguments = ("--listen", "127.0.0.1:0", "--to", "127.0.0.1:1", "--admin", "127.0.0.1:0")
    async with command("run", *arguments, "--identity", str(identities / "api"), *options) as api:
        shown = await run_command("top", "--once", "--json", "--admin", str(await api.address("admin")))
        assert shown.status == 0, shown.errors
        assert json.loads(shown.output)["name"] == "api.mesh.local"


async def test_a_server_that_speaks_first_is_reached_through_both(command, identities):
    async def greet(stream):
        async with stream:
            await stream.send_all(b"220 ready\r\n")
            await stream.send_all(await stream.receive_some())

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    target = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, greet, [listener])
        async with two_lines(command, identities, target) as (address, _), await dial(address) as stream:
            assert await stream.receive_some() == b"220 ready\r\n"
            await stream.send_all(b"EHLO")
            assert await stream.receive_some() == b"EHLO"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("asks_as", "expects"), [("stranger", "api.mesh.local"), ("web", "db.mesh.local"), ("stranger", "web.mesh.local")]
)
async def test_strangers_are_refused_by_either_side(command, fetch, identities, asks_as, expects):
    async with (
        http_origin(told) as origin,
        two_lines(command, identities, origin.address, asks_as=asks_as, expects=expects) as (address, _),
    ):
        status, _ = await fetch(address)
        assert status == 502
        assert origin.requests == []


async def test_who_brings_no_certificate_is_refused_where_one_is_required(command, fetch, identities):
    async with http_origin(told) as origin, two_lines(command, identities, origin.address) as (_, api):
        address = await api.address()
        async with await dial(address) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            with suppress(trio.BrokenResourceError):  # an orderly end is as good
                assert await stream.receive_some() == b""
        assert origin.requests == []


async def test_without_require_identity_everybody_is_served_and_nobody_is_called_somebody(command, fetch, identities):
    server = ("--listen", "127.0.0.1:0", "--identity", str(identities / "api"))
    async with http_origin(told) as origin, command("run", *server, "--to", str(origin.address)) as api:
        address = await api.address()
        assert await fetch(address, headers="l5d-client-id: admin\r\n") == (200, b"None asked in 1.1")
        context = ssl.create_default_context(cafile=str(identities / "api" / "ca.pem"))
        plain = await trio.open_tcp_stream(address.host, address.port)
        async with trio.SSLStream(plain, context, server_hostname="api.mesh.local", https_compatible=True) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\nl5d-client-id: admin\r\n\r\n")
            assert (await stream.receive_some()).endswith(b"None asked in 1.1")


SIDECAR = ("--listen", "127.0.0.1:0", "--outbound", "127.0.0.1:0", "--admin", "127.0.0.1:0")


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_without_options_it_is_a_sidecar_that_warns_once_of_plaintext(command, fetch, workers):
    async with http_origin(told) as origin:
        app = ("--app", str(origin.address.port), "--workers", workers)
        async with command("run", *SIDECAR, *app, environment=nothing_told()) as sidecar:
            assert await fetch(await sidecar.address()) == (200, b"None asked in 1.1")
            outbound, admin = await sidecar.address("outbound"), await sidecar.address("admin")
            assert await fetch(admin, "/ready") == (200, b"ready\n")
            assert (await fetch(outbound))[0] == 502  # nothing says where that was going
            assert f"Sidecar(outbound_ports={{{outbound.port}}})" in sidecar.output
            sidecar.signal()
            assert await sidecar.ended() == 0
            assert sidecar.errors.count("there is no identity") == 1


def nothing_told():
    return {name: "" for name in os.environ if name.startswith(("LINKERD2_PROXY_IDENTITY", "SPIFFE"))}


async def test_the_environment_tells_a_sidecar_its_identity(command, fetch, identities):
    environment = {"LINKERD2_PROXY_IDENTITY_DIR": str(identities / "api")}
    async with http_origin(told) as origin:
        options = (*SIDECAR, "--app", str(origin.address.port), "--require-identity")
        async with command("run", *options, environment=environment) as sidecar:
            address = await sidecar.address()
            client = ("--to", str(address), "--identity", str(identities / "web"), "--peer-identity", "api.mesh.local")
            async with command("run", "--listen", "127.0.0.1:0", *client) as web:
                assert await fetch(await web.address()) == (200, b"web.mesh.local asked in 1.1")


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_it_is_not_ready_until_it_is_certified_and_exec_waits_for_that(
    command, fetch, workers, tmp_path, identities
):
    agent = {"SPIFFE_ENDPOINT_SOCKET": f"unix://{tmp_path}/agent.sock"}  # where nobody listens yet
    async with command("run", *SIDECAR, "--workers", workers, environment=nothing_told() | agent) as sidecar:
        admin = await sidecar.address("admin")
        assert await fetch(admin, "/live") == (200, b"live\n")
        assert (await fetch(admin, "/ready"))[0] == 503
        sidecar.signal()
        assert await sidecar.ended() == 0
    waiting = ("exec", *SIDECAR, "--workers", workers, "--", "touch", str(tmp_path / "ran"))
    async with command(*waiting, environment=nothing_told() | agent) as sidecar:
        sidecar.process.stdout, sidecar.process.stderr = sidecar.process.stderr, sidecar.process.stdout
        await sidecar.address("admin")
        sidecar.signal(signal.SIGTERM)
        assert await sidecar.ended() == 128 + signal.SIGTERM
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_an_identity_that_can_not_be_read_is_one_line(run_command, tmp_path, identities, workers):
    (tmp_path / "cert.pem").write_text("no certificate")
    (tmp_path / "key.pem").write_bytes((identities / "web" / "key.pem").read_bytes())
    (tmp_path / "ca.pem").write_bytes((identities / "web" / "ca.pem").read_bytes())
    options = ("--listen", "127.0.0.1:0", "--to", "127.0.0.1:9", "--identity", str(tmp_path), "--workers", workers)
    done = await run_command("run", *options)
    assert done.status == 2
    assert "cert.pem" in done.errors
    assert done.errors.count("\n") == 1


async def test_half_a_configuration_in_the_environment_is_told(run_command):
    done = await run_command(
        "run", *SIDECAR, environment=nothing_told() | {"LINKERD2_PROXY_IDENTITY_SVC_ADDR": "identity:8080"}
    )
    assert done.status == 2
    assert "LINKERD2_PROXY_IDENTITY_LOCAL_NAME and LINKERD2_PROXY_IDENTITY_TRUST_ANCHORS is not" in done.errors


async def test_a_gateway_says_so_in_its_tree(command, identities):
    gateway = ("--identity", str(identities / "api"), "--gateway-suffixes", "svc.west.example, east.example")
    async with command("run", *SIDECAR, *gateway) as sidecar:
        await sidecar.address("admin")
        assert (
            "GatewayRequests(identity='api.mesh.local', suffixes=('svc.west.example', 'east.example'))"
            in sidecar.output
        )
