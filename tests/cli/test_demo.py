import json
import re
import signal

import pytest
import trio

from linkerd_proxy.cli.demo_traffic import Traffic, Watched
from linkerd_proxy.cli.demo_view import Lines, Row, rows
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.metrics.registry import Registry


async def test_for_a_second_every_request_succeeds_and_json_says_so(run_command):
    demo = await run_command("demo", "--for", "1", "--json")
    assert (demo.status, demo.errors) == (0, "")
    summary = json.loads(demo.output)
    assert summary["failed"] == 0
    assert summary["seconds"] >= 1
    assert set(summary["protocols"]) == {"http/1", "http/2", "opaque"}
    for figures in summary["protocols"].values():
        assert figures["requests"] > 10
        assert figures["success"] == 100
        assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]
        assert figures["connections"] > 0
        assert min(figures["bytes_in"], figures["bytes_out"]) > 100


async def test_plain_lines_the_tree_and_a_summary(run_command):
    demo = await run_command("demo", "--for", "1.5s", "--plain")
    assert demo.status == 0
    assert "  Detect()\n  ├─ http: " in demo.output
    assert re.search(r"^  listening on 127\.0\.0\.1:\d+$", demo.output, re.MULTILINE)
    assert re.search(r"^  curl http://127\.0\.0\.1:\d+/hello$", demo.output, re.MULTILINE)
    assert re.search(r"^ *1s +TCP echo +[\d.]+ +100\.00% ", demo.output, re.MULTILINE)
    assert re.search(r"^\d+ requests in 1\.\d s over \d+ connections, .* 0 failed$", demo.output, re.MULTILINE)


async def test_ctrl_c_ends_it_with_a_summary(command):
    async with command("demo") as demo:
        await demo.line(r"^ +1s +HTTP/1\.1")
        demo.signal(signal.SIGINT)
        assert await demo.ended() == 0
        assert " requests in " in demo.output
        assert demo.errors == ""


async def test_the_curl_line_works(command, fetch):
    async with command("demo") as demo:
        host, port = (await demo.line(r"curl http://(\S+):(\d+)/hello")).groups()
        status, body = await fetch(f"{host}:{port}", "/hello")
        assert (status, body) == (200, b"Hello you, you asked for GET /hello\n")


async def test_failures_are_counted_and_told(nursery, autojump_clock):
    (listener,) = await open_listeners("127.0.0.1:0")
    address = listener.address
    await listener.aclose()  # nobody listens there
    traffic = Traffic(address, 10)
    nursery.start_soon(traffic.run)
    await trio.sleep(2)
    traffic.stop()
    for watched in traffic.all:
        assert watched.failed > 5
        assert watched.succeeded == 0
        assert "UF" in watched.failures[-1]
    assert all(row.success == 0 for row in rows(traffic.all, Registry(), trio.current_time()))


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
    row = Row("http/2", "HTTP/2 gRPC", 123456, 1, 50.0, 1.23, 12.3, 123.4, 12, 1234, 123_456_789, 9_876_543_210)
    with Lines() as view:
        view.show([row], 3600, [])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == [
        "3600s",
        "HTTP/2",
        "gRPC",
        "50.0",
        "100.00%",
        "1.2",
        "12.3",
        "123.4",
        "12",
        "123.5MB",
        "9.9GB",
        "123456",
    ]
