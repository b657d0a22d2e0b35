"""Make the pictures of the live view anew: ``python -m docs.screenshots`` at the root of the repository."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from linkerd_proxy.cli.top_view import Screen

HERE = Path(__file__).parent / "how-to"
PAGE, TOP = HERE / "page.png", HERE / "top.svg"
FRAMES = 20  # seconds of traffic before a picture is taken


@contextmanager
def demo() -> Iterator[str]:
    """Run the demonstration, and yield where its admin endpoint is."""
    process = subprocess.Popen(
        [sys.executable, "-m", "linkerd_proxy", "demo", "--plain", "--admin", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.fullmatch(r"admin on (\S+)\n", line):
                break
        else:
            raise RuntimeError("the demonstration ended without having begun")
        # It goes on to print: a pipe that nobody empties holds it up after a minute or two.
        reader = threading.Thread(target=process.stdout.read, daemon=True)
        reader.start()
        try:
            yield found[1]
        finally:
            process.kill()
            reader.join()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def frames(address: str, count: int) -> list[dict[str, Any]]:
    """Return so many frames of the live view."""
    found: list[dict[str, Any]] = []
    with urllib.request.urlopen(f"http://{address}/events", timeout=30) as events:  # of our own on loopback
        for line in events:
            if line.startswith(b"data: "):
                found.append(json.loads(line.removeprefix(b"data: ")))
                if len(found) == count:
                    break
    return found


def top_picture(all_frames: list[dict[str, Any]]) -> str:
    """Return what ``linkerd-proxy top`` shows after these frames, as SVG."""
    screen = Screen(Console(file=io.StringIO(), width=150))
    for frame in all_frames:
        screen.update("127.0.0.1:4191", frame)
    console = Console(file=io.StringIO(), width=150, height=200, record=True, force_terminal=True)
    console.print(screen)
    return console.export_svg(title="linkerd-proxy top", unique_id="top")


def main() -> None:
    """Write both pictures."""
    from tests.flow.browser import open_page

    with demo() as address, open_page(f"http://{address}/", width=1200, height=1330) as page:
        TOP.write_text(top_picture(frames(address, FRAMES)))
        page.wait("document.querySelectorAll('#rows tbody tr').length > 3")
        PAGE.write_bytes(page.screenshot())


if __name__ == "__main__":
    main()
