"""The command as its users run it: a process of its own, its lines, its signals."""

import os
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
import trio

from linkerd_proxy.address import parse_address
from linkerd_proxy.io.dial import dial
from tests.patience import PATIENCE


class Command:
    """A running ``linkerd-proxy``."""

    def __init__(self, process):
        self.process = process
        self.output = ""
        self.errors = ""

    async def line(self, pattern):
        """Wait for a line that matches, and return the match."""
        while not (found := re.search(pattern, self.output, re.MULTILINE)):
            data = await self.process.stdout.receive_some()
            assert data, f"it ended without {pattern!r}: {self.output}"
            self.output += data.decode()
        return found

    async def address(self, what="listening"):
        return parse_address((await self.line(rf"^{what} on (\S+)$"))[1])

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    async def ended(self):
        """Wait for its end and return the exit status."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_errors)
            while data := await self.process.stdout.receive_some():
                self.output += data.decode()
            return await self.process.wait()

    async def _read_errors(self):
        while data := await self.process.stderr.receive_some():
            self.errors += data.decode()


@asynccontextmanager
async def started(*arguments, environment=None, cwd=None):
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "linkerd_proxy", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | (environment or {}),
        cwd=cwd,
    )
    command = Command(process)
    try:
        with trio.fail_after(PATIENCE):
            yield command
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await process.stdout.aclose()
            await process.stderr.aclose()


async def finished(*arguments, **options):
    """Run the command to its end and return it, with ``status``."""
    async with started(*arguments, **options) as command:
        command.status = await command.ended()
    return command


async def fetch(address, path="/", *, headers="", method="GET", host="x"):
    """Ask over HTTP/1.1 on a connection of its own, and return the status line's code and the body."""
    async with await dial(address) as stream:
        await stream.send_all(
            f"{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\r\n".encode()
        )
        data = b""
        while chunk := await stream.receive_some():
            data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        body = unchunked(body)
    return int(head.split()[1]), body


def unchunked(body):
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        whole += body[:length]
        body = body[length + 2 :]
        if not length:
            break
    return whole


def series(text, name):
    """Return the samples of one name as {labels: value}."""
    found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
    return {labels: float(value) for labels, value in found}


@pytest.fixture
def command():
    return started


@pytest.fixture
def run_command():
    return finished


@pytest.fixture(name="fetch")
def fetch_fixture():
    return fetch


@pytest.fixture(name="series")
def series_fixture():
    return series


class Origin:
    """A small HTTP server: ``/slow`` sends the first half of its body, and the rest when told."""

    def __init__(self, address):
        self.address = address
        self.go_on = trio.Event()
        self.begun = trio.Event()

    async def serve(self, stream):
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                chunk = await stream.receive_some()
                if not chunk:
                    return
                data += chunk
            if data.startswith(b"GET /slow"):
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst")
                self.begun.set()
                await self.go_on.wait()
                await stream.send_all(b"+rest")
                return
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")


@pytest.fixture
async def origin(nursery):
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    origin = Origin(f"127.0.0.1:{port}")
    nursery.start_soon(trio.serve_listeners, origin.serve, listeners)
    return origin
