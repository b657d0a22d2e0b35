import io
import json
import re
import signal
import subprocess
import sys

import pytest
import trio

from linkerd_proxy.address import Address
from linkerd_proxy.cli.demo_figures import Figures, Row
from linkerd_proxy.cli.demo_traffic import Traffic, Watched
from linkerd_proxy.cli.demo_view import Lines, _table
from linkerd_proxy.metrics.registry import Registry
from tests.patience import PATIENCE
from tests.ports import held_port


async def test_in_two_seconds_nearly_all_succeeds_over_mutual_tls_and_json_says_so(run_command):
    demo = await run_command("demo", "--for", "2", "--plain", "--json")
    assert (demo.status, demo.errors) == (0, "")
    summary = json.loads(demo.output)
    assert summary["failed"] <= summary["requests"] / 100
    assert summary["seconds"] >= 2
    assert set(summary["protocols"]) == {"http/1", "http/2", "opaque"}
    for figures in summary["protocols"].values():
        assert figures["requests"] > 0
        assert (figures["meshed"], figures["peer"]) == (100, "api.mesh.local")
        assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]
        assert figures["connections"] > 0
        assert min(figures["bytes_in"], figures["bytes_out"]) > 100
    assert set(summary["replicas"]) == {"api-1", "api-2 slow", "api-3 1% bad"}
    for figures in summary["replicas"].values():
        assert figures["requests"] > 0
        assert (figures["meshed"], figures["peer"]) == (100, "web.mesh.local")
    assert summary["replicas"]["api-2 slow"]["p50_ms"] > 30


async def shown(demo):
    """Wait until every protocol has been used: before that it has nothing to say of them, and no success to end with."""
    for name in ("HTTP/1.1", "gRPC", "TCP"):
        await demo.line(rf"^ *\d+s +{name} +100% .* api\.mesh\.local$")


async def test_plain_lines_the_tree_and_a_summary(command):
    async with command("demo", "--duration", "1h", "--plain") as demo:
        await shown(demo)
        await demo.line(r"^ *\d+s +api-2 slow +100% .* web\.mesh\.local$")
        demo.signal(signal.SIGINT)
        assert await demo.ended() == 0
    assert "    Detect()\n    ├─ http: " in demo.output
    assert "Originate(" in demo.output
    assert re.search(r"^  web\.mesh\.local, whose sidecar listens on 127\.0\.0\.1:\d+:$", demo.output, re.MULTILINE)
    assert re.search(r"^  curl http://127\.0\.0\.1:\d+/hello$", demo.output, re.MULTILINE)
    assert re.search(r"^\d+ requests in \d+\.\d s, .* failed for web$", demo.output, re.MULTILINE)


async def test_ctrl_c_ends_it_with_a_summary(command):
    async with command("demo") as demo:
        await shown(demo)
        demo.signal(signal.SIGINT)
        assert await demo.ended() == 0
        assert " requests in " in demo.output
        assert demo.errors == ""


async def test_the_curl_line_works(command, fetch):
    async with command("demo") as demo:
        host, port = (await demo.line(r"curl http://(\S+):(\d+)/hello")).groups()
        status, body = await fetch(f"{host}:{port}", "/hello")
        assert status == 200
        assert re.fullmatch(rb"Hello web\.mesh\.local, this is api-[123]; you asked for GET /hello\n", body)


async def test_what_it_keeps_is_the_demonstration_and_runs(run_command, fetch, tmp_path):
    demo = await run_command("demo", "--for", "0.5", "--plain", "--keep", str(tmp_path / "mine"))
    script = tmp_path / "mine" / "demo.py"
    assert f"Make it your own: python {script}\n" in demo.output
    assert len(script.read_text().splitlines()) <= 40
    for name in ("web", "api"):
        assert (tmp_path / "mine" / name / "key.pem").stat().st_mode & 0o777 == 0o600
    process = await trio.lowlevel.open_process(
        [sys.executable, "-W", "error", str(script), "127.0.0.1:0"], stdout=subprocess.PIPE
    )
    try:
        said = ""
        with trio.fail_after(PATIENCE):
            while not (found := re.search(r"^listening on (\S+)$", said, re.MULTILINE)):
                chunk = await process.stdout.receive_some()
                assert chunk, said
                said += chunk.decode()
            for _ in range(5):
                status, body = await fetch(found[1], "/hello")
                assert status == 200
                assert re.fullmatch(rb"Hello web\.mesh\.local, this is api-[123]\n", body)
    finally:
        process.kill()
        await process.wait()
        await process.stdout.aclose()


async def test_what_was_kept_is_not_overwritten(run_command, tmp_path):
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "ca.pem").write_text("mine")
    demo = await run_command("demo", "--for", "1", "--json", "--keep", str(tmp_path))
    assert demo.status == 2
    assert demo.errors.startswith("linkerd-proxy: ")
    assert demo.errors.count("\n") == 1
    assert (tmp_path / "ca" / "ca.pem").read_text() == "mine"


async def test_failures_are_counted_and_told(autojump_clock):
    with held_port() as port:
        traffic = Traffic(Address("127.0.0.1", port), 10)
        async with trio.open_nursery() as running:
            running.start_soon(traffic.run)
            await trio.sleep(2)
            traffic.stop()
    for watched in traffic.all:
        assert watched.failed > 5
        assert watched.succeeded == 0
        assert "UF" in watched.failures[-1]
    assert all(row.success == 0 for row in Figures(traffic.all, Registry()).protocols(trio.current_time()))


async def test_a_request_without_an_answer_fails_after_five_seconds(autojump_clock):
    watched = Watched("http/1", "HTTP/1.1")
    await watched.count(trio.sleep_forever)
    assert trio.current_time() == pytest.approx(5, abs=0.1) or watched.failed == 1
    assert list(watched.failures) == ["HTTP/1.1: no answer within 5 s"]


async def test_the_rate_is_that_of_the_last_seconds(autojump_clock):
    watched = Watched("http/1", "HTTP/1.1")
    assert watched.rate(0.0) == 0
    watched.succeeded = 10
    assert watched.rate(1.0) == 10
    for second in range(2, 8):
        assert watched.rate(float(second)) < 10
    assert watched.rate(8.0) == 0


def test_lines_are_as_wide_as_a_terminal(capsys):
    row = Row("api-3 1% bad", 1000, 1, 50.0, 1.23, 12.3, 123.4, 12, 1234, 100.0, "web.mesh.local", 1, 2)
    with Lines() as view:
        view.show([row], 3600, [])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    shown = ["3600s", "api-3", "1%", "bad", "100%", "99.90%", "50.0", "1.2", "12.3", "123.4", "12", "web.mesh.local"]
    assert lines[1].split() == shown


@pytest.mark.parametrize("width", [50, 60, 80, 120])
def test_the_table_shows_whole_numbers_on_any_terminal(width):
    rich = pytest.importorskip("rich.console")
    rows = [
        Row(
            name, 1000, 1, 50.0, 1111.2, 2222.3, 3333.4, 12, 1234, 100.0, f"{name.split()[0]}.mesh.local", 1, 2, replica
        )
        for name, replica in (("HTTP/1.1", False), ("api-3 1% bad", True))
    ]
    out = io.StringIO()
    console = rich.Console(file=out, width=width, force_terminal=True, color_system=None)
    console.print(_table(rows, 3, ["UF: no connection"], width))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for word in ("HTTP/1.1", "99.90%", "50.0", "2222.3"):
        assert word in text.split()
    assert not re.search(r"(?<!\S)[0-9.]+…", text)
