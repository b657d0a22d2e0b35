"""``linkerd-proxy top``: what it draws, and what it says if there is nothing to draw."""

import io
import json
import os
import re
import termios

import pytest
import trio
from rich.console import Console

from linkerd_proxy.cli.demo_view import can_draw
from linkerd_proxy.cli.top import _keys, _until_quit, _watch
from linkerd_proxy.cli.top_view import Screen, plain, sparkline
from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import serve
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.admin import admin
from linkerd_proxy.metrics.registry import current_registry
from tests.patience import PATIENCE

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


def shown(width, height, frame, *, lines=0, pages=0):
    """Return the lines of one terminal."""
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=True, color_system=None)
    screen = Screen(Console(file=io.StringIO(), width=width, height=height))
    screen.update("127.0.0.1:4191", frame)
    console.print(screen)
    screen.scroll(lines=lines, pages=pages)
    out.truncate(out.seek(0))
    console.print(screen)
    return out.getvalue().splitlines()


ROW = FRAME["rows"][0]
MANY = {
    **FRAME,
    "rows": [
        {**ROW, "name": f"inbound a-{one} http/2", "p50": 11094.2, "p95": 12470.1, "p99": 12601.0, "total": 123456}
        for one in range(30)
    ],
    "edges": [
        {
            "source": "web.default.serviceaccount.identity.linkerd.cluster.local",
            "target": "api.default.serviceaccount.identity.linkerd.cluster.local",
            "secured": True, "rate": 9.5, "total": 90,
        }
    ],
}  # fmt: skip
NUMBERS = {"11094.2", "12470.1", "12601.0", "98.00", "9.5", "0.0", "30.0", "25.00"}


@pytest.mark.parametrize("width", [44, 60, 80, 100, 200])
def test_a_narrow_terminal_shows_fewer_columns_and_whole_numbers(width):
    lines = shown(width, 100, MANY)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for head in ("TRAFFIC", "RPS", "SUCCESS", "P95 ms", "ENDPOINT", "STATE", "FROM", "SECURED"):
        assert head in text
    for word in text.split():  # names are cut, and keep both ends
        assert not word.startswith("…"), word
        assert not word.endswith("…"), word
    shown_numbers = set(re.findall(r"(?<![\w.:-])\d+\.\d+(?![\w.:])", text))
    assert "12470.1" in shown_numbers
    assert shown_numbers <= NUMBERS


def test_a_low_terminal_keeps_the_keys_in_sight_and_scrolls():
    top = shown(60, 20, MANY)
    assert len(top) == 19
    assert top[0].startswith("web.mesh  up 12 s")
    assert top[-1].startswith("q ends, p pauses, ↑ ↓ scroll (18 of ")
    assert shown(60, 20, MANY, lines=1)[:17] == top[1:18]
    assert shown(60, 20, MANY, pages=1)[0] not in top
    end = shown(60, 20, MANY, pages=100)
    assert "reset" in " ".join(end)
    assert shown(60, 20, MANY, pages=-3) == top


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
    with trio.fail_after(PATIENCE), pytest.raises(ExceptionGroup) as caught:
        await _watch(("127.0.0.1:1",), True, False, False)
    assert isinstance(unwrapped(caught.value), InvalidConfiguration)
    assert "no proxy answers at 127.0.0.1:1" in str(unwrapped(caught.value))


@pytest.mark.parametrize(
    ("pressed", "done"),
    [
        ("q", []),
        ("", []),
        ("p", ["pause"]),
        ("\x1b[B", [(1, 0)]),
        ("k\x1b[6~x\x1b[5~p", [(-1, 0), (0, 1), (0, -1), "pause"]),
    ],
)
async def test_keys(pressed, done):
    did = []

    class Pressed:
        def pause(self):
            did.append("pause")

        def scroll(self, *, lines, pages):
            did.append((lines, pages))

    keys = iter([pressed, "q"])

    async def wait_keys():
        await trio.lowlevel.checkpoint()
        return next(keys)

    with trio.CancelScope() as scope:
        await _until_quit(wait_keys, Pressed(), scope)
    assert scope.cancel_called
    assert did == done


@pytest.fixture
def terminal():
    """Return a terminal, and the keyboard of who sits at it."""
    ours, theirs = os.openpty()
    with open(ours, "r+b", buffering=0) as keyboard, open(theirs, encoding="utf-8") as screen:
        yield screen, keyboard


async def test_keys_come_whole_from_a_terminal_which_is_put_back(terminal, monkeypatch):
    screen, keyboard = terminal
    monkeypatch.setattr("sys.stdin", screen)
    before = termios.tcgetattr(screen)
    with _keys() as wait_keys:
        for key in ("\x1b[B", "q"):
            keyboard.write(key.encode())
            assert await wait_keys() == key
    assert termios.tcgetattr(screen) == before


@pytest.mark.parametrize(("name", "can"), [("dumb", False), ("unknown", False), ("xterm-256color", True)])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch, name, can):
    monkeypatch.setenv("TERM", name)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert can_draw() is can
