"""Every example runs as its usage says, on ports of the system's choice, and does what it is for."""

import os
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.patience import PATIENCE
from tests.tls.conftest import issuer_pem, make_issuer

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))


@asynccontextmanager
async def running(*command, **environment):
    """Start a command, wait until it says where it listens, and yield the process, its port and what it said."""
    process = await trio.lowlevel.open_process(
        [sys.executable, *map(str, command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | environment,
    )
    try:
        said = b""
        with trio.fail_after(PATIENCE):
            while not (found := re.search(rb"listening on \S*?:(\d+)\n", said)):
                chunk = await process.stdout.receive_some()
                assert chunk, f"{command} ended: {said!r}"
                said += chunk
            yield process, int(found[1]), said.decode()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await process.stdout.aclose()
            await process.stdin.aclose()


def example(name, *arguments):
    return running(EXAMPLES / f"{name}.py", "127.0.0.1:0", *arguments)


async def ask(port, data, *, end=True):
    """Send bytes, end the side if asked, and return all that comes back."""
    with trio.fail_after(PATIENCE):
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            await client.send_all(data)
            if end:
                await client.send_eof()
            return b"".join([chunk async for chunk in client])


def get(port, path="/", version="1.1"):
    head = f"GET {path} HTTP/{version}\r\nhost: example.test\r\nconnection: close\r\n\r\n"
    return ask(port, head.encode(), end=False)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_is_short_and_says_how_it_is_used(program):
    text = program.read_text()
    assert len(text.splitlines()) <= 40
    assert re.match(r'""".*Usage: .*"""\n', text), "the first line is a docstring with the usage"


def test_every_example_is_tested_here():
    tested = Path(__file__).read_text()
    assert [path.stem for path in PROGRAMS if f'"{path.stem}"' not in tested and path.name not in tested] == []


async def test_echo_sends_back():
    async with example("echo") as (_, port, _):
        assert await ask(port, b"there and back") == b"there and back"


async def test_handler_answers():
    async with example("handler") as (_, port, _):
        assert (await get(port, "/one")).endswith(b"\r\n\r\nhello from /one\n")
        post = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 4\r\n\r\nloud"
        assert (await ask(port, post, end=False)).endswith(b"\r\n\r\nLOUD")


async def test_tcp_forward_carries_both_ways():
    async with example("echo") as (_, other, _), example("tcp_forward", f"127.0.0.1:{other}") as (_, port, said):
        assert said.startswith(f"Forward()\nConnect('127.0.0.1:{other}')\n")
        assert await ask(port, b"x" * 100_000) == b"x" * 100_000


async def test_detect_sends_http_and_the_rest_to_different_places():
    async with (
        example("handler") as (_, web, _),
        example("echo") as (_, other, _),
        example("detect", f"127.0.0.1:{web}", f"127.0.0.1:{other}") as (_, port, said),
    ):
        assert "└─ otherwise: Forward()" in said
        assert (await get(port, "/two")).endswith(b"hello from /two\n")
        assert await ask(port, b"no http at all\n") == b"no http at all\n"


async def test_mesh_asks_over_mutual_tls():
    async with example("handler") as (_, web, _), example("mesh", f"127.0.0.1:{web}") as (_, port, said):
        answer = await get(port, "/four")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"/four" in answer
        assert "Originate(" in said


async def test_reverse_http_routes_and_explains_failures():
    async with (
        example("handler") as (website, web, _),
        example("echo") as (_, other, _),
        example("reverse_http", f"127.0.0.1:{web}", f"127.0.0.1:{other}") as (_, port, _),
    ):
        assert (await get(port, "/api/three")).endswith(b"hello from /api/three\n")
        assert (await get(port, "/three", version="1.0")).startswith(b"HTTP/1.")
        assert await ask(port, b"no http at all\n") == b"no http at all\n"
        website.kill()
        await website.wait()
        answer = await get(port, "/three")
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"\r\nl5d-proxy-error: UF " in answer


async def test_retry_hides_a_connection_that_broke():
    asked = []

    async def origin(stream):
        async with stream:
            asked.append(await stream.receive_some())
            if len(asked) > 1:
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nat last")

    async with trio.open_nursery() as nursery:
        listener, *_ = await nursery.start(partial(trio.serve_tcp, origin, 0, host="127.0.0.1"))
        web = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        async with example("retry", web) as (_, port, _):
            assert (await get(port)).endswith(b"at last")
        nursery.cancel_scope.cancel()
    assert len(asked) == 2


async def test_route_rewrites_redirects_and_steers():
    async with (
        example("handler") as (_, stable, _),
        example("route", f"127.0.0.1:{stable}", f"127.0.0.1:{stable}") as (_, port, _),
    ):
        assert (await get(port, "/api/one?x=1")).endswith(b"hello from /v1/one?x=1\n")
        assert (await get(port, "/other")).endswith(b"hello from /other\n")
        assert b"\r\nlocation: http://example.test/home\r\n" in await get(port, "/")


async def test_authorize_lets_in_who_may():
    async with example("handler") as (_, web, _):
        async with example("authorize", f"127.0.0.1:{web}") as (_, port, _):
            assert (await get(port, "/in")).endswith(b"hello from /in\n")
        async with example("authorize", f"127.0.0.1:{web}", "192.0.2.0/24") as (_, port, _):
            answer = await get(port, "/in")
            assert answer.startswith(b"HTTP/1.1 403 ")
            assert b"\r\nl5d-proxy-error: AD " in answer


async def test_authority_makes_a_mesh_of_two():
    async with example("echo") as (_, app, _), example("authority", f"127.0.0.1:{app}") as (_, port, said):
        assert "Terminate(identity=Issued(" in said
        assert "peer='app.mesh.local'" in said
        assert await ask(port, b"there and back") == b"there and back"


async def test_observe_writes_a_line_and_sends_a_span():
    sent = []

    async def collector(stream):
        async with stream:
            sent.append(await stream.receive_some())
            arrived.set()
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    arrived = trio.Event()
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    head = f"GET /x?token=secret HTTP/1.1\r\nhost: a\r\ntraceparent: {trace}\r\nconnection: close\r\n\r\n"
    async with trio.open_nursery() as nursery:
        listener, *_ = await nursery.start(partial(trio.serve_tcp, collector, 0, host="127.0.0.1"))
        port_of = listener.socket.getsockname()[1]
        async with (
            example("handler") as (_, web, _),
            example("observe", f"127.0.0.1:{web}", f"127.0.0.1:{port_of}") as (process, port, _),
        ):
            assert b" 200 " in await ask(port, head.encode(), end=False)
            line = b""
            with trio.fail_after(PATIENCE):
                while b"\n" not in line:
                    line += await process.stdout.receive_some()
                await arrived.wait()
        nursery.cancel_scope.cancel()
    assert b'"uri":"/x?token=(redacted)"' in line
    assert b'"trace_id":"' + b"ab" * 16 in line
    assert sent[0].startswith(b"POST /v1/traces HTTP/1.1\r\n")


async def test_own_layer_adds_its_header():
    async with example("handler") as (_, web, _), own_layer_before(web) as (_, port, _):
        answer = await get(port, "/took")
        assert answer.endswith(b"hello from /took\n")
        assert re.search(rb"\r\nx-took-ms: \d+\.\d\r\n", answer)


def own_layer_before(port):
    """Run own_layer.py's stack by the command."""
    stack = f"{EXAMPLES / 'own_layer.py'}:proxy"
    return running("-m", "linkerd_proxy", "run", stack, "--listen", "127.0.0.1:0", UPSTREAM=f"127.0.0.1:{port}")


@pytest.mark.parametrize(("name", "passed"), [("test_own_layer", 3), ("test_with_fixtures", 2)])
def test_examples_of_tests_pass(name, passed):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "pythonpath=examples"]
    done = subprocess.run([*command, f"examples/{name}.py"], cwd=EXAMPLES.parent, capture_output=True, text=True)
    assert f"{passed} passed" in done.stdout, done.stdout
    assert done.returncode == 0


async def test_embed_in_app_drains_at_the_end_of_its_input():
    async with example("handler") as (_, web, _), example("embed_in_app", f"127.0.0.1:{web}") as (process, port, said):
        assert (await get(port, "/in")).endswith(b"hello from /in\n")
        await process.stdin.aclose()
        while chunk := await process.stdout.receive_some():
            said += chunk.decode()
        assert said.endswith("drained\n")
        assert await process.wait() == 0


async def test_proxy_protocol_sends_on_the_address_it_was_told():
    told = b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\nhello"
    async with example("echo") as (_, other, _), example("proxy_protocol", f"127.0.0.1:{other}") as (_, port, _):
        assert await ask(port, told) == told


async def test_balance_spreads_requests_and_passes_over_what_cannot_be_reached():
    async with (
        example("handler") as (_, one, _),
        example("handler") as (two, other, _),
        example("balance", f"127.0.0.1:{one}", f"127.0.0.1:{other}") as (_, port, said),
    ):
        assert "└─ each endpoint: Client()" in said
        for number in range(10):
            assert (await get(port, f"/{number}")).endswith(f"hello from /{number}\n".encode())
        two.kill()
        await two.wait()
        for number in range(10):
            assert (await get(port, f"/{number}")).endswith(f"hello from /{number}\n".encode())


async def test_mutual_tls_joins_two_proxies_and_keeps_others_out(tmp_path):
    issuer = make_issuer()
    for name in ("near.example", "far.example"):
        (tmp_path / name).mkdir()
        chain, key = issuer.issue(name).pem
        for file, text in (("cert", chain), ("key", key), ("ca", issuer_pem(issuer))):
            (tmp_path / name / f"{file}.pem").write_bytes(text)
    async with (
        example("echo") as (_, app, _),
        example("mutual_tls", f"127.0.0.1:{app}", tmp_path / "far.example") as (_, far, _),
        example("mutual_tls", f"127.0.0.1:{far}", tmp_path / "near.example", "far.example") as (_, near, said),
        example("mutual_tls", f"127.0.0.1:{far}", tmp_path / "near.example", "else.example") as (_, wrong, _),
    ):
        assert "Originate(" in said
        assert await ask(near, b"in the clear only here") == b"in the clear only here"
        for port in (far, wrong):
            answer = b""
            with suppress(trio.BrokenResourceError):
                answer = await ask(port, b"not by mutual TLS")
            assert answer == b""


async def test_workers_serve_and_drain():
    async with example("handler") as (_, web, _), example("workers", f"127.0.0.1:{web}") as (process, port, said):
        assert len(said.partition("\n")[0].split()) == 3
        assert (await get(port, "/by-one-of-two")).endswith(b"hello from /by-one-of-two\n")
        process.send_signal(signal.SIGTERM)
        while chunk := await process.stdout.receive_some():
            said += chunk.decode()
        assert said.endswith("drained\n")
        assert await process.wait() == 0


async def test_grpc_call_is_answered():
    async with example("grpc_call") as (process, _, said):
        while "reply" not in said or not said.endswith("\n"):
            said += (await process.stdout.receive_some()).decode()
        assert said.endswith("reply: hello you hello you hello you \n")


@pytest.mark.parametrize("name", ["tcp_forward", "detect", "reverse_http", "handler", "echo", "embed_in_app"])
async def test_control_c_ends_it(name):
    async with example(name) as (process, _, _):
        process.send_signal(signal.SIGINT)
        await process.wait()
        assert process.returncode != 0
