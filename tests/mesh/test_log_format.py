"""The log as lines of JSON."""

import io
import json
import logging
import os
import subprocess
import sys

import pytest
import trio

from linkerd_proxy.address import parse_address
from linkerd_proxy.core.contain import record_failure
from linkerd_proxy.core.own import own_connection
from linkerd_proxy.errors import ConnectFailed
from linkerd_proxy.io.dial import dial
from linkerd_proxy.mesh.log_format import JsonLines, current_log_format, log_to
from tests.patience import PATIENCE


@pytest.fixture
def fresh(monkeypatch):
    """Return what puts a root logger in place that nobody has set up; pytest has its own handlers at the other."""
    return lambda: _fresh(monkeypatch)


def _fresh(monkeypatch):
    made = logging.RootLogger(logging.WARNING)
    monkeypatch.setattr(logging, "root", made)
    monkeypatch.setattr(logging.Logger, "root", made)
    logger = logging.getLogger("linkerd_proxy")
    monkeypatch.setattr(logger, "parent", made)


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_a_failure_has_its_code_and_addresses_apart(fresh):
    fresh()
    out = io.StringIO()
    log_to(out, form="JSON")
    record_failure(ConnectFailed("refused\nby it", endpoint="10.0.0.1:80"), own_connection())
    (line,) = lines(out)
    assert (line["level"], line["target"]) == ("WARN", "linkerd_proxy.failures")
    assert line["timestamp"].endswith("Z")
    fields = line["fields"]
    assert (fields["code"], fields["peer"], fields["local"]) == ("UF", "127.0.0.1:0", "127.0.0.1:0")
    assert fields["message"].startswith("UF refused")
    assert "worker" not in line


async def test_plain_lines_are_as_they_were(fresh):
    fresh()
    out = io.StringIO()
    log_to(out, worker=7)
    record_failure(ConnectFailed("refused"), own_connection())
    assert out.getvalue().startswith("WARNING worker 7: UF refused")
    assert current_log_format() == "PLAIN"


def test_workers_write_the_same_and_say_who_they_are(fresh):
    fresh()
    out = io.StringIO()
    log_to(out, form="JSON", worker=7)
    assert current_log_format() == "JSON"
    logging.getLogger("linkerd_proxy").error("x %s", "y")
    (line,) = lines(out)
    assert (line["worker"], line["level"], line["fields"]) == (7, "ERROR", {"message": "x y"})


def test_a_trace_back_stays_on_the_line():
    try:
        raise ValueError("no")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "f", 1, "m", (), sys.exc_info())
    line = JsonLines().format(record)
    assert "\n" not in line
    assert "ValueError: no" in json.loads(line)["fields"]["exception"]


@pytest.mark.parametrize("given", [("--log-format", "json"), ()])
async def test_the_command_takes_it_from_its_line_or_the_environment(given):
    environment = {} if given else {"LINKERD2_PROXY_LOG_FORMAT": "JSON"}
    program = [sys.executable, "-m", "linkerd_proxy", "run", "--to", "127.0.0.1:1", "--listen", "127.0.0.1:0", *given]
    process = await trio.lowlevel.open_process(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment}
    )
    with trio.fail_after(PATIENCE):
        text = b""
        while b"listening on" not in text or not text.endswith(b"\n"):
            text += await process.stdout.receive_some()
        address = parse_address(text.decode().rsplit(" ", 1)[1].strip())
        async with await dial(address) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert b" 502 " in await stream.receive_some()
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stderr.receive_some()
        process.terminate()
        await process.wait()
    assert json.loads(line.splitlines()[0])["fields"]["code"] == "UF"
