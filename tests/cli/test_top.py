"""``linkerd-proxy top``: what it draws, and what it says if there is nothing to draw."""

import io
import json

import pytest
import trio
from rich.console import Console

from linkerd_proxy.cli.top import _watch
from linkerd_proxy.cli.top_view import Screen, plain, sparkline
from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import serve
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.admin import admin
from linkerd_proxy.metrics.registry import current_registry

FRAME = {
    "name": "web.mesh",
    "uptime": 12.0,
    "rows": [
        {
            "name": "inbound http/1", "kind": "http", "total": 90, "rate": 9.5, "success": 0.98, "p50": 1.25, "p95": 3.0,
            "p99": None, "open": 1, "read": 0.0, "written": 0.0, "meshed": 1.0,
        }
    ],
    "endpoints": [
        {
            "balancer": "api", "address": "10.0.0.1:80", "identity": "", "state": "out", "in_flight": 0, "rtt": 30.0,
            "rate": 0.0, "failed": 7, "share": 0.25,
        }
    ],
    "edges": [{"source": "client.mesh", "target": "web.mesh", "secured": True, "rate": 9.5, "total": 90}],
    "failures": [{"ago": 3.2, "code": "UR", "text": "the upstream [reset] it", "peer": "10.0.0.9:1"}],
}  # fmt: skip


def test_plain_columns_have_everything():
    text = plain(FRAME)
    assert text.splitlines()[0] == "web.mesh, up 12 s"
    rows = [line.split() for line in text.splitlines()]
    assert ["http", "inbound", "http/1", "9.5", "98.00%", "1.2", "3.0", "-", "1", "100%", "90"] in rows
    assert ["10.0.0.1:80", "api", "-", "out", "0", "30.0", "0.0", "25.00%", "7"] in rows
    assert ["client.mesh", "web.mesh", "mutual", "TLS", "9.5", "90"] in rows
    assert "the upstream [reset] it" in text


@pytest.mark.parametrize("width", [80, 160])
def test_the_screen_draws_the_same_and_fits(width):
    out = io.StringIO()
    console = Console(file=out, width=width, height=40, force_terminal=True, color_system=None)
    with Screen(console) as screen:
        for _ in range(3):
            screen.update("127.0.0.1:4191", FRAME)
    text = out.getvalue()
    for word in ("web.mesh", "inbound", "9.5", "out", "mutual", "UR", "q ends, p pauses"):
        assert word in text


def test_a_paused_screen_takes_frames_and_shows_them_later():
    out = io.StringIO()
    with Screen(Console(file=out, width=100, height=40, force_terminal=True, color_system=None)) as screen:
        screen.update("a", FRAME)
        screen.pause()
        screen.update("a", {**FRAME, "name": "later.mesh"})
        assert "later.mesh" not in out.getvalue()
        screen.pause()
        assert "later.mesh" in out.getvalue()


def test_sparklines():
    assert sparkline([0, 1, 2, 4, None, 8]) == "▁▂▃▅ █"
    assert sparkline([None, 0]) == " ▁"
    assert sparkline([]) == ""


@pytest.fixture
async def address(nursery):
    listeners = await open_listeners("127.0.0.1:0")
    await nursery.start(lambda *, task_status: serve(admin(Drain(), name="web"), listeners, task_status=task_status))
    return str(listeners[0].address)


async def test_once_prints_one_second_and_ends(address, capsys, autojump_clock):
    current_registry().counter("request_total", "", protocol="http/1").value = 3
    await _watch((address,), True, True, False)
    (line,) = capsys.readouterr().out.splitlines()
    frame = json.loads(line)
    assert (frame["admin"], frame["name"]) == (address, "web")
    assert frame["rows"][0]["total"] == 3


async def test_no_proxy_is_one_line_with_a_remedy():
    with trio.fail_after(5), pytest.raises(ExceptionGroup) as caught:
        await _watch(("127.0.0.1:1",), True, False, False)
    assert isinstance(unwrapped(caught.value), InvalidConfiguration)
    assert "no proxy answers at 127.0.0.1:1" in str(unwrapped(caught.value))
