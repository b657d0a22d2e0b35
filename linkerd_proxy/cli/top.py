"""``linkerd-proxy top``: what goes on in running proxies, live on a terminal."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import trio

from linkerd_proxy.address import parse_target
from linkerd_proxy.cli.asking import ask_admin
from linkerd_proxy.cli.demo_view import can_draw
from linkerd_proxy.cli.options import ADDRESS, Command
from linkerd_proxy.cli.top_view import Screen, plain
from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["top"]

_MOST_KEYS = 256  # bytes of what was pressed meanwhile
_KEY = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)
_SCROLLING = {
    "j": (1, 0), "\x1b[B": (1, 0), "\x1bOB": (1, 0), "\x1b[6~": (0, 1),
    "k": (-1, 0), "\x1b[A": (-1, 0), "\x1bOA": (-1, 0), "\x1b[5~": (0, -1),
}  # fmt: skip
"""Lines and pages by key, as terminals send the arrows and page keys."""


@click.command(cls=Command, short_help="Watch traffic, endpoints, identities and failures live.")
@click.option(
    "--admin",
    multiple=True,
    type=ADDRESS,
    default=("127.0.0.1:4191",),
    show_default=True,
    help="A proxy's admin endpoint; may be given several times.",
)
@click.option("--once", is_flag=True, help="Print what went on in one second, and end.")
@click.option("--plain", "as_lines", is_flag=True, help="Print lines instead of drawing on the terminal.")
@click.option("--json", "as_json", is_flag=True, help="Print each frame as a line of JSON.")
def top(admin: tuple[str, ...], once: bool, as_lines: bool, as_json: bool) -> None:
    """Show the traffic of running proxies: rates, success and latencies, endpoints, who talks to whom, and failures.

    On a terminal: q ends, p pauses, the arrows (or j and k) and the page keys scroll. The same as a page: open the
    admin endpoint in a browser.
    """
    drawn = not (once or as_lines or as_json) and can_draw()
    try:
        trio.run(_watch, admin, once, as_json, drawn)
    except ExceptionGroup as group:
        raise unwrapped(group) from None


async def _watch(addresses: tuple[str, ...], once: bool, as_json: bool, drawn: bool) -> None:
    shown: dict[str, int] = {}
    screen = Screen() if drawn else None

    async with trio.open_nursery() as nursery:

        def on_frame(address: str, frame: dict[str, Any]) -> None:
            if screen is not None:
                screen.update(address, frame)
                return
            shown[address] = shown.get(address, 0) + 1
            if once and shown[address] != 2:
                return  # the first frame has nothing to compare with
            click.echo(json.dumps({"admin": address, **frame}) if as_json else plain(frame))
            if once and all(shown.get(one, 0) >= 2 for one in addresses):
                nursery.cancel_scope.cancel()

        if screen is None:
            for address in addresses:
                nursery.start_soon(_follow, address, on_frame)
        else:
            with screen, _keys() as wait_keys:
                nursery.start_soon(_until_quit, wait_keys, screen, nursery.cancel_scope)
                async with trio.open_nursery() as following:
                    for address in addresses:
                        following.start_soon(_follow, address, on_frame)


async def _follow(address: str, on_frame: Callable[[str, dict[str, Any]], None]) -> None:
    def on_line(line: str) -> None:
        if not line.startswith("data: "):
            return
        try:
            frame = json.loads(line.removeprefix("data: "))
        except ValueError as error:
            raise InvalidConfiguration(f"{address} sends what is no frame: is it a proxy's admin endpoint?") from error
        on_frame(address, frame)

    await ask_admin(parse_target(address), "/events", "text/event-stream", on_line)
    raise InvalidConfiguration(f"the proxy at {address} has ended")


async def _until_quit(wait_keys: Callable[[], Awaitable[str]], screen: Screen, scope: trio.CancelScope) -> None:
    while True:
        for key in _KEY.findall(await wait_keys()) or ["q"]:  # none at all: the terminal has gone
            if key in {"q", "Q", "\x03"}:
                scope.cancel()
                return
            if key in {"p", "P", " "}:
                screen.pause()
            elif key in _SCROLLING:
                lines, pages = _SCROLLING[key]
                screen.scroll(lines=lines, pages=pages)


@contextmanager
def _keys() -> Iterator[Callable[[], Awaitable[str]]]:
    """Take keys from the terminal as they are pressed; it is put back as it was."""
    if not sys.stdin.isatty():
        yield trio.sleep_forever
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    async def wait_keys() -> str:
        await trio.lowlevel.wait_readable(descriptor)
        # All that is there: an arrow is several bytes, of which sys.stdin would keep some for itself.
        return os.read(descriptor, _MOST_KEYS).decode("utf-8", "replace")

    tty.setcbreak(descriptor)
    try:
        yield wait_keys
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
