"""Headless Chromium, driven over the DevTools protocol."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.patience import PATIENCE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_KEYS = {"Tab": 9, "Enter": 13, " ": 32}


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection, session: str) -> None:
        self._socket = socket
        self._session = session
        self._number = 0
        self.problems: list[str] = []

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, "sessionId": self._session}
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=PATIENCE))
            if answer.get("method") == "Runtime.exceptionThrown":
                self.problems.append(str(answer["params"]["exceptionDetails"]))
            if answer.get("method") == "Log.entryAdded" and answer["params"]["entry"]["level"] == "error":
                self.problems.append(str(answer["params"]["entry"]))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                found: dict[str, Any] = answer["result"]
                return found

    def value(self, expression: str) -> Any:
        """Return what an expression of JavaScript is in the page; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a condition holds in the page."""
        self.value(
            "new Promise((resolve, reject) => {"
            f"const end = Date.now() + {PATIENCE * 1000};"
            f"const look = () => {{ if ({condition}) resolve(true);"
            f"else if (Date.now() > end) reject({json.dumps(condition)}); else setTimeout(look, 50); }}; look(); }})"
        )

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        text = {"Enter": "\r", " ": " "}.get(key, "" if key in _KEYS else key)
        code = _KEYS.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    def type(self, text: str) -> None:
        """Type a text, key by key."""
        for key in text:
            self.press(key)

    def resize(self, width: int, height: int) -> None:
        """Give the page another size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self) -> bytes:
        """Return what is to be seen, as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextmanager
def open_page(url: str, *, width: int = 1200, height: int = 900) -> Iterator[Page]:
    """Open a page in a browser of its own, with a profile that is thrown away."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # No sandbox: this runs as root in containers, and opens nothing but a page of our own.
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
        quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server")
        process = subprocess.Popen(
            [CHROMIUM, *options, *quiet, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        reader = None
        try:
            address = _address(process)
            reader = threading.Thread(target=process.stderr.read, daemon=True)  # a full pipe would hold it up
            reader.start()
            with connect(address, max_size=None, open_timeout=PATIENCE) as socket:
                target = _plain(socket, "Target.createTarget", {"url": "about:blank"})["targetId"]
                session = _plain(socket, "Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
                page = Page(socket, session)
                for domain in ("Page", "Runtime", "Log"):
                    page.call(f"{domain}.enable")
                page.resize(width, height)
                page.call("Page.navigate", url=url)
                page.call("Page.bringToFront")
                yield page
        finally:
            process.kill()
            process.wait()
            if reader is not None:
                reader.join(PATIENCE)  # its own children have the pipe too
            process.stderr.close()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"DevTools listening on (ws://\S+)", line):
            return found[1]
    raise AssertionError("chromium ended without a word of where it listens")


def _plain(socket: ClientConnection, method: str, parameters: dict[str, object]) -> dict[str, Any]:
    """Call a method of the browser itself, before there is a session."""
    socket.send(json.dumps({"id": 1_000_000, "method": method, "params": parameters}))
    while True:
        answer = json.loads(socket.recv(timeout=PATIENCE))
        if answer.get("id") == 1_000_000:
            assert "error" not in answer, answer
            found: dict[str, Any] = answer["result"]
            return found
