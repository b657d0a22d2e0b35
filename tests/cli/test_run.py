import signal
import socket
from contextlib import suppress

import pytest
import trio

from linkerd_proxy.io.dial import dial
from tests.patience import PATIENCE

MESH = """
from linkerd_proxy.http.handler import handler
from linkerd_proxy.http.server import Http
from linkerd_proxy.core.message import Response
from linkerd_proxy.tcp.forward import Forward

async def hello(request):
    return Response(200, (), b"from my mesh")

proxy = Http() | handler(hello)
half = Forward()
number = 1

def make():
    return proxy

def broken():
    raise RuntimeError("no luck")
"""


async def rest(stream):
    data = b""
    while chunk := await stream.receive_some():
        data += chunk
    return data


def connect_until_refused(address):
    while True:
        with suppress(ConnectionResetError):  # the system had accepted it before the listener was closed
            socket.create_connection((address.host, address.port), PATIENCE).close()


async def test_it_prints_the_tree_and_the_addresses_and_proxies(command, fetch, origin):
    async with command("run", "--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--to", origin.address) as proxy:
        address = await proxy.address()
        assert await fetch(address) == (200, b"hello")
        proxy.signal()
        assert await proxy.ended() == 0
        assert proxy.output.startswith("Detect()\n├─ http: ")
        assert proxy.output.count("\nlistening on 127.0.0.1:") == 2
        assert proxy.errors == ""


async def test_opaque_does_not_look_at_the_bytes(command, fetch, origin):
    async with command("run", "--listen", "127.0.0.1:0", "--to", origin.address, "--opaque") as proxy:
        assert await fetch(await proxy.address()) == (200, b"hello")
        assert "Detect" not in proxy.output


async def test_the_environment_says_what_options_do_not(command, fetch, origin):
    environment = {
        "LINKERD2_PROXY_INBOUND_LISTEN_ADDR": "127.0.0.1:0",
        "LINKERD2_PROXY_ADMIN_LISTEN_ADDR": "127.0.0.1:0",
        "LINKERD2_PROXY_CODEC": "h11",
        "LINKERD2_PROXY_SHUTDOWN_GRACE_PERIOD": "3s",
        "LINKERD2_PROXY_LOG": "warn,linkerd=error",
    }
    async with command("run", "--to", origin.address, environment=environment) as proxy:
        assert await fetch(await proxy.address()) == (200, b"hello")
        assert await fetch(await proxy.address("admin"), "/live") == (200, b"live\n")
        assert "Http(codec='h11')" in proxy.output


async def test_the_admin_endpoint(command, fetch, series, origin):
    async with command("run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--to", origin.address) as proxy:
        address, admin = await proxy.address(), await proxy.address("admin")
        for _ in range(3):
            await fetch(address)
        assert await fetch(admin, "/ready") == (200, b"ready\n")
        status, text = await fetch(admin, "/metrics")
        assert (status, series(text.decode(), "request_total")) == (200, {'protocol="http/1"': 3})
        assert series(text.decode(), "tcp_open_total") == {'peer="src",protocol="http/1"': 3}
        status, tree = await fetch(admin, "/config")
        assert tree.decode().rstrip() in proxy.output


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_post_from_this_host_drains_where_that_is_switched_on(command, fetch, origin, workers):
    arguments = (
        "run",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--to",
        origin.address,
        "--workers",
        workers,
    )
    async with command(*arguments) as proxy:
        assert (await fetch(await proxy.address("admin"), "/shutdown", method="POST", host="localhost"))[0] == 404
    async with command(*arguments, environment={"LINKERD2_PROXY_SHUTDOWN_ENDPOINT_ENABLED": "true"}) as proxy:
        admin = await proxy.address("admin")
        assert (await fetch(admin, "/shutdown"))[0] == 405
        assert await fetch(admin, "/shutdown", method="POST", host="localhost") == (200, b"shutting down\n")
        assert await proxy.ended() == 0


async def test_a_shutdown_endpoint_needs_an_admin_endpoint(run_command, origin):
    ended = await run_command("run", "--to", origin.address, "--shutdown-endpoint")
    assert ended.status == 2
    assert "give it an --admin ADDRESS" in ended.errors


async def test_a_hangup_ends_nothing(command, fetch, origin):
    async with command("run", "--listen", "127.0.0.1:0", "--to", origin.address) as proxy:
        address = await proxy.address()
        proxy.signal(signal.SIGHUP)
        assert await fetch(address) == (200, b"hello")
        proxy.signal()
        assert await proxy.ended() == 0
        assert "SIGHUP: nothing is read again" in proxy.errors


async def test_sigterm_lets_a_body_finish_and_refuses_what_is_new(command, fetch, origin):
    async with command("run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--to", origin.address) as proxy:
        address, admin = await proxy.address(), await proxy.address("admin")
        async with await dial(address) as stream:
            await stream.send_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
            await origin.begun.wait()
            proxy.signal()
            while (await fetch(admin, "/ready"))[0] != 503:
                pass
            with pytest.raises(OSError, match="refused"):
                await trio.to_thread.run_sync(connect_until_refused, address)
            origin.go_on.set()
            received = await rest(stream)
        assert received.endswith(b"first+rest")
        assert await proxy.ended() == 0


async def test_after_the_grace_it_ends_anyway(command, origin):
    arguments = ("--listen", "127.0.0.1:0", "--to", origin.address, "--grace", "100ms")
    async with command("run", *arguments) as proxy, await dial(await proxy.address()) as stream:
        await stream.send_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        await origin.begun.wait()
        proxy.signal()
        assert await proxy.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_at_once(command, fetch, origin, number):
    async with command("run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--to", origin.address) as proxy:
        address, admin = await proxy.address(), await proxy.address("admin")
        async with await dial(address) as stream:
            await stream.send_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
            await origin.begun.wait()
            proxy.signal(number)
            while (await fetch(admin, "/ready"))[0] != 503:
                pass
            proxy.signal(number)
            assert await proxy.ended() == 128 + number
            with pytest.raises(trio.BrokenResourceError):  # a body that was cut must not look whole
                await rest(stream)


@pytest.fixture
def mesh(tmp_path):
    (tmp_path / "my_mesh.py").write_text(MESH)
    return tmp_path


@pytest.mark.parametrize("spec", ["my_mesh.py:proxy", "my_mesh.py", "my_mesh:proxy", "my_mesh:make"])
async def test_a_stack_from_a_users_file(command, fetch, mesh, spec):
    async with command("run", spec, "--listen", "127.0.0.1:0", cwd=mesh) as proxy:
        assert await fetch(await proxy.address()) == (200, b"from my mesh")
        assert proxy.output.startswith("Http()\nhandler(hello)\n")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("my_mesh.py:prox", "my_mesh.py has no prox: did you mean proxy?"),
        ("my_mesh.py:zzz", "it has the stacks proxy"),
        ("my_mesh.py:half", "is a layer without an end"),
        ("my_mesh.py:number", "is of type int, not a stack"),
        ("my_mesh:broken", "my_mesh failed: RuntimeError: no luck"),
        ("syntax.py:proxy", "syntax.py failed: SyntaxError"),
    ],
)
async def test_what_is_wrong_with_a_users_file_is_one_line(run_command, mesh, spec, told):
    (mesh / "syntax.py").write_text("proxy = = 1\n")
    proxy = await run_command("run", spec, cwd=mesh)
    assert proxy.status == 2
    assert proxy.errors.startswith("linkerd-proxy: ")
    assert told in proxy.errors
    assert proxy.errors.count("\n") == 1
    assert proxy.output == ""


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_port_in_use_is_one_line(run_command, origin, workers):
    proxy = await run_command("run", "--listen", origin.address, "--to", "127.0.0.1:1", "--workers", workers)
    assert proxy.status == 2
    assert proxy.errors.startswith(f"linkerd-proxy: cannot listen on {origin.address}: Address already in use; ")
    assert proxy.errors.count("\n") == 1
