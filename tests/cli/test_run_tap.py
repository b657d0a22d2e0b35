"""``--tap-identity``: the command serves Linkerd's tap, which grpcio asks."""

import json

import pytest
import trio

from linkerd_proxy.grpc.tap_api import ObserveRequest, TapEvent
from linkerd_proxy.testing import Authority
from linkerd_proxy.tls.store import key_pem, to_pem
from tests.patience import PATIENCE

grpc = pytest.importorskip("grpc")

OWN, VIZ = "web.mesh.local", "tap.viz.mesh.local"
PATH = "/io.linkerd.proxy.tap.Tap/Observe"


def written(authority, directory):
    made = authority.issue(OWN)
    (directory / "ca.pem").write_bytes(authority.roots)
    (directory / "cert.pem").write_bytes(to_pem(made.chain))
    (directory / "key.pem").write_bytes(key_pem(made.key))
    (directory / "key.pem").chmod(0o600)
    return str(directory)


async def sees(authority, tap, request):
    """Look at one exchange, which ``request`` makes once somebody looks."""
    viz = authority.issue(VIZ)
    credentials = grpc.ssl_channel_credentials(authority.roots, key_pem(viz.key), to_pem(viz.chain))
    begun = trio.Event()
    token = trio.lowlevel.current_trio_token()
    told = []

    def observe():
        with grpc.secure_channel(str(tap), credentials, [("grpc.ssl_target_name_override", OWN)]) as channel:
            stub = channel.unary_stream(PATH, response_deserializer=TapEvent.FromString)
            replies = stub(ObserveRequest(limit=1).SerializeToString(), timeout=PATIENCE)
            replies.initial_metadata()  # comes once the tap is open
            token.run_sync_soon(begun.set)
            told.extend(replies)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, observe)
            await begun.wait()
            await request()
    return told


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("by_file", [False, True])
async def test_who_is_named_sees_the_requests(command, fetch, origin, tmp_path, workers, by_file):
    authority = Authority()
    directory = written(authority, tmp_path)
    if by_file:
        path = tmp_path / "proxy.json"
        shown = {"address": "127.0.0.1:0", "allowed": [VIZ]}
        listeners = {"web": {"address": "127.0.0.1:0", "protocol": "http", "backend_refs": ["app"]}}
        backends = {"app": {"endpoints": [str(origin.address)]}}
        identity = {"directory": directory}
        path.write_text(
            json.dumps({"listeners": listeners, "backends": backends, "identity": identity, "tap_server": shown})
        )
        arguments = ("--config", str(path), "--workers", workers)
    else:
        arguments = ("--listen", "127.0.0.1:0", "--to", origin.address, "--identity", directory, "--workers", workers)
        arguments += ("--tap-identity", VIZ, "--tap", "127.0.0.1:0")
    async with command("run", *arguments) as proxy:
        address, tap = await proxy.address(), await proxy.address("tap")

        async def request():
            assert await fetch(address, "/seen") == (200, b"hello")

        told = await sees(authority, tap, request)
        assert told[0].http.request_init.path == "/seen"
        assert told[-1].http.response_end.response_bytes == 5
        proxy.signal()
        assert await proxy.ended() == 0


async def test_it_takes_an_identity(command, origin):
    async with command("run", "--to", origin.address, "--tap-identity", VIZ) as proxy:
        assert await proxy.ended() == 2
        assert "give it an --identity" in proxy.errors
