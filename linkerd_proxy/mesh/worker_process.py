"""One worker process, as its parent sees it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar, Protocol

import trio

from linkerd_proxy.mesh.channel import Channel
from linkerd_proxy.mesh.worker import Job
from linkerd_proxy.metrics.registry import Registry
from linkerd_proxy.metrics.snapshot import loaded

__all__ = ["Gathered", "WorkerProcess", "spawn"]

_MAX_OWED = 64  # questions that wait for an answer: one that answers none gets no more, and no pipe fills up


class Gathered(Protocol):
    """A stream of several workers' items, as their parent keeps it."""

    what: ClassVar[str]

    @property
    def wish(self) -> Any:
        """What each worker is to stream, as what JSON can say."""
        ...

    def take(self, worker: int, items: list[Any], dropped: int) -> None:
        """Take what a worker sent, and how much it dropped. Never waits: the worker's other answers are behind it."""
        ...

    def leave(self, worker: int) -> None:
        """Expect no more of a worker."""
        ...


class _Group(Protocol):
    """Who is told what a worker says."""

    def check(self) -> None: ...

    def take(self, pid: int, message: Mapping[str, Any]) -> None: ...


class WorkerProcess:
    """One process, as the parent sees it."""

    __slots__ = (
        "_answers",
        "_arrived",
        "_channel",
        "_families",
        "_group",
        "_lock",
        "_owed",
        "accepting",
        "certified",
        "failure",
        "metrics",
        "process",
    )

    def __init__(self, process: trio.Process, channel: Channel, group: _Group, *, follows: bool) -> None:
        self.process: trio.Process = process
        self._group = group
        self._answers: dict[int, Callable[[Any], None]] = {}
        self._owed = 0
        self.accepting: bool = False
        self.certified: bool = not follows
        """Whether it can prove who it is, if its readiness follows that."""
        self.failure: str = ""
        self.metrics: Registry = Registry()
        """What it had counted when it last told."""
        self._channel = channel
        self._families: list[bytes] = []
        self._arrived = trio.Event()
        self._lock = trio.Lock()

    async def listen(self) -> None:
        """Take what the process says until it ends."""
        while (line := await self._channel.receive()) is not None:
            message = json.loads(line)
            event = message.get("event")
            if event is None:
                self._families.append(line)
            elif event == "metrics":
                self.metrics, self._families = loaded(self._families), []
                self._owed -= 1
                self._arrived.set()
            elif event == "ready":
                self.accepting = True
                self._group.check()
            elif event == "certified":
                self.certified = message["text"] == "yes"
                self._group.check()
            elif event == "answer":
                self._owed -= 1
                if (give := self._answers.pop(message["id"], None)) is not None:
                    give(message["data"])
            elif event in {"batch", "over"}:
                self._group.take(self.process.pid, message)
            else:
                self.failure = message["text"]
        self.accepting = False
        self._arrived.set()
        for give in list(self._answers.values()):
            give(None)

    async def ask(self, message: Mapping[str, Any]) -> Any:
        """Return what the process answers to a message with an id, or None if it is gone."""
        number = message["id"]
        answered = trio.Event()
        found: list[Any] = []

        def give(data: Any) -> None:
            found.append(data)
            answered.set()

        self._answers[number] = give
        try:
            if not await self._question(message):
                return None
            await answered.wait()
        finally:
            self._answers.pop(number, None)
        return found[0]

    async def _question(self, message: Mapping[str, Any]) -> bool:
        if self._owed >= _MAX_OWED:
            return False
        self._owed += 1
        return await self.send(message)

    async def send(self, message: Mapping[str, Any]) -> bool:
        """Send a message, and return whether somebody is there to read it."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._channel.send(json.dumps(message))
            return True
        return False

    async def fetch(self) -> None:
        """Bring ``metrics`` up to date, unless the process is gone."""
        async with self._lock:
            self._arrived = trio.Event()
            if await self._question({"event": "tell"}):
                await self._arrived.wait()

    async def kill(self) -> None:
        """End the process if it runs, and wait for it."""
        with trio.CancelScope(shield=True):
            self.process.kill()
            await self.process.wait()
            await self._channel.aclose()


async def spawn(job: Job, group: _Group) -> WorkerProcess:
    """Start a process that does a job, and return it; ``group`` is told what it says."""
    mine, theirs = socket.socketpair()
    with theirs:
        try:
            # A session of its own: Ctrl-C on the terminal reaches the parent alone, which then tells each worker once.
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "linkerd_proxy.mesh.worker", job.to_json(), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError:
            mine.close()
            raise
    return WorkerProcess(process, Channel(mine), group, follows=job.identity is not None)
