"""The plugin: cheap until used, and at home beside pytest-trio and anyio's plugin."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_MODULES = """
import json, sys
import linkerd_proxy.testing.plugin
json.dump(sorted({name.partition(".")[0] for name in sys.modules}), sys.stdout)
"""


def test_the_plugin_imports_nothing_but_pytest() -> None:
    done = subprocess.run([sys.executable, "-c", _MODULES], capture_output=True, check=True)
    heavy = {"trio", "h11", "h2", "httptools", "trustme", "cryptography", "click", "rich"}
    assert not heavy & set(json.loads(done.stdout))


def test_it_is_registered_by_its_entry_point(request: pytest.FixtureRequest) -> None:
    assert request.config.pluginmanager.has_plugin("linkerd_proxy")


_TESTS = """
import pytest
import trio
from linkerd_proxy import Client, Connect, Forward, Http, Request, UpstreamClosed, UpstreamReset
from linkerd_proxy.testing import EOF, Script, call, tcp_origin

{marks}

async def test_http(proxied, origin):
    async with origin() as server, proxied(Http() | Client() | Connect(server.address)) as address:
        async with call(Client() | Connect(address), Request("POST", "/up", body=b"hello", authority="a")) as response:
            assert response.status == 200
            assert await response.body.read() == b"hello"
        assert [request.path for request in server.requests] == ["/up"]
        assert server.connections == 1


async def test_tcp(proxied):
    async with tcp_origin() as server, proxied(Forward() | Connect(server.address)) as address:
        async with await trio.open_tcp_stream(address.host, address.port) as stream:
            await (Script() >> b"ping" << b"ping" >> EOF << EOF).play(stream)


async def test_faults(origin, faults):
    async with origin() as server:
        for fault, error in ((faults(reset_after=20), (UpstreamReset, UpstreamClosed)), (faults(truncate_after=20), UpstreamClosed)):
            with pytest.raises(error):
                async with call(Client() | fault | Connect(server.address), Request(authority="a")) as response:
                    await response.body.read()


async def test_authority(authority):
    assert b"BEGIN CERTIFICATE" in authority.roots
"""

_TRIO = "pytestmark = pytest.mark.trio"
_ANYIO = """
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return ("trio", {"restrict_keyboard_interrupt_to_checkpoints": False})
"""


@pytest.mark.parametrize(("marks", "without"), [(_TRIO, "anyio"), (_ANYIO, "trio"), (_ANYIO, None)])
def test_it_works_beside(marks: str, without: str | None, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(_TESTS.replace("{marks}", marks))
    options = ["-p", f"no:{without}"] if without else []
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", *options, "test_it.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "4 passed" in done.stdout, done.stdout + done.stderr
