"""Servers in processes of their own, which tests kill and restart under load, and what became of the load."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from linkerd_proxy import Connection, Http, Request, Rescue, Service, Stack
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.testing import call, serving
from tests.patience import PATIENCE

PROGRAM = Path(__file__).with_name("backend.py")


@dataclass(eq=False)
class Fleet:
    """Some servers: their processes and ports by number, and the requests that they got."""

    log: Path
    telling: trio.abc.SendStream | None = None
    pids: dict[int, int] = field(default_factory=dict)
    ports: dict[int, int] = field(default_factory=dict)
    started: Counter[int] = field(default_factory=Counter)
    changed: trio.Event = field(default_factory=trio.Event)

    @property
    def addresses(self) -> list[str]:
        return [f"127.0.0.1:{self.ports[number]}" for number in sorted(self.ports)]

    def got(self) -> Counter[str]:
        """Return how often each request was delivered, whole, to any of them."""
        return Counter(self.log.read_text().splitlines())

    def signal(self, number: int, which: signal.Signals) -> None:
        os.kill(self.pids[number], which)

    async def wait_started(self, number: int, times: int) -> None:
        with trio.fail_after(PATIENCE):
            while self.started[number] < times:
                await self.changed.wait()

    async def start_again(self, number: int) -> None:
        """Let one that was killed come back, where that is waited for."""
        assert self.telling is not None
        times = self.started[number]
        await self.telling.send_all(b"1")
        await self.wait_started(number, times + 1)

    async def restart(self, number: int) -> None:
        """End one the gentle way, and wait until it is back."""
        times = self.started[number]
        self.signal(number, signal.SIGTERM)
        await self.wait_started(number, times + 1)

    async def read(self, stdout: trio.abc.ReceiveStream) -> None:
        rest = b""
        async for data in stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                number, pid, port = map(int, line.split())
                self.pids[number], self.ports[number] = pid, port
                self.started[number] += 1
            changed, self.changed = self.changed, trio.Event()
            changed.set()


@asynccontextmanager
async def fleet(kind: str, log: Path, *, count: int = 3, rest: float | None = 0.3) -> AsyncIterator[Fleet]:
    """Run servers, and yield them when all listen. Without a ``rest`` one that was killed comes back when it is told."""
    log.touch()  # noqa: ASYNC240  # a moment before anything runs
    process = await trio.lowlevel.open_process(
        [sys.executable, PROGRAM, kind, str(count), "told" if rest is None else str(rest), log],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    servers = Fleet(log, process.stdin)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(servers.read, process.stdout)
            for number in range(count):
                await servers.wait_started(number, 1)
            yield servers
            nursery.cancel_scope.cancel()
    finally:
        for pid in servers.pids.values():  # one that is stopped takes no SIGTERM
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue
        with trio.CancelScope(shield=True):
            process.terminate()
            await process.wait()
            await process.stdout.aclose()
            await process.stdin.aclose()


@dataclass(eq=False)
class Load:
    """Requests at an even rate, each in a task of its own, with a path that no other has; its answer says the path."""

    service: Service[Exchange]
    version: str = "1.1"
    methods: tuple[str, ...] = ("GET",)
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    took: list[tuple[float, float]] = field(default_factory=list)
    failed: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Those that were not answered with 200, and when each began and ended."""
    count: int = 0
    answered: trio.Event = field(default_factory=trio.Event)

    async def run(self, rate: float, until: trio.CancelScope) -> None:
        """Ask until a scope is cancelled; return when all have been answered."""
        async with trio.open_nursery() as nursery:
            due = trio.current_time()
            with until:
                while True:
                    method = self.methods[self.count % len(self.methods)]
                    self.count += 1
                    nursery.start_soon(self.ask, method, f"/ok/{self.count}")
                    due += 1 / rate
                    await trio.sleep_until(due)

    async def ask(self, method: str, path: str) -> None:
        began = trio.current_time()
        outcome = await self.outcome(method, path)
        ended = trio.current_time()
        self.took.append((began, ended - began))
        self.outcomes.setdefault(method, Counter())[outcome] += 1
        if outcome != "200":
            self.failed[f"{method} {path}"] = began, ended
        answered, self.answered = self.answered, trio.Event()
        answered.set()

    async def wait_answered(self, more: int) -> None:
        """Return when so many more requests have been answered: the time of these tests, on a machine of any speed."""
        wanted = len(self.took) + more
        while len(self.took) < wanted:
            await self.answered.wait()

    async def outcome(self, method: str, path: str) -> str:
        body = b"x" * 100 if method in {"POST", "PUT", "PATCH"} else b""
        try:
            async with call(
                self.service, Request(method, path, authority="test", body=body, version=self.version)
            ) as response:
                read = await response.body.read(1 << 20)
            if response.status == 200 and read != path.encode():
                return f"200 with {read!r}"
            return " ".join([str(response.status), *response.headers.get_all("l5d-proxy-error")])
        except Exception as error:
            return repr(error)

    def percentile(self, part: float, since: list[float], during: float) -> float:
        """Return a percentile of the seconds that requests took which began so soon after one of some moments."""
        took = sorted(took for began, took in self.took if any(0 <= began - one < during for one in since))
        return took[min(len(took) - 1, math.ceil(part * len(took)) - 1)]


@asynccontextmanager
async def loading(load: Load, rate: float) -> AsyncIterator[None]:
    """Keep the load up inside the block, and let every request end."""
    async with trio.open_nursery() as nursery:
        until = trio.CancelScope()
        nursery.start_soon(load.run, rate, until)
        yield
        until.cancel()


def front(stack: Stack[Exchange]):
    """Serve a stack as a proxy on a port of its own."""
    web: Stack[Connection] = Http() | Rescue() | stack
    return serving(web)


def report(text: str) -> None:
    """Say the figures of a run by hand (``pytest -s``)."""
    sys.stderr.write(f"\n{text}\n")
