"""Several processes on one port: a parent that starts them, restarts them, drains them and adds up their metrics."""

from __future__ import annotations

import json
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import trio

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.channel import Channel
from linkerd_proxy.mesh.load import Argument
from linkerd_proxy.mesh.log_format import current_log_format
from linkerd_proxy.mesh.reserve import reserve
from linkerd_proxy.mesh.worker import Job
from linkerd_proxy.metrics.registry import Registry, current_registry
from linkerd_proxy.metrics.snapshot import loaded

__all__ = ["Workers", "run_workers"]

logger: logging.Logger = logging.getLogger("linkerd_proxy")

_PAUSE = 0.1  # seconds before the first restart, doubled each time, up to ...
_LONGEST_PAUSE = 10.0
_SOUND = 10.0  # a worker that lived as long starts the next pause from the beginning
_ANSWER = 5.0  # seconds that a worker has to hand over its metrics
_LATE = 2.0  # seconds beyond the grace after which a draining worker is killed


async def run_workers(
    target: str,
    addresses: Sequence[str | AnyAddress],
    *,
    workers: int,
    arguments: Mapping[str, Argument] | None = None,
    drain: Drain | None = None,
    original_dst: bool = False,
    identity: str | None = None,
    task_status: trio.TaskStatus[Workers] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve a stack in several processes, each its own Trio run, all on the same ports (``SO_REUSEPORT``).

    A worker that dies is started again, after 0.1 s and then ever longer, up to 10 s. A worker whose parent dies
    drains itself.

    Args:
        target: What to serve, as :func:`~linkerd_proxy.mesh.load.load_stack` reads it: each process loads it anew.
        addresses: Where to listen. The parent holds the ports, so port 0 gives every worker the same one.
        workers: How many processes.
        arguments: For the target, if it is a function.
        drain: Once started, the workers are told to drain, and this returns when they have ended. What is left
            ``drain.grace`` seconds later is killed.
        original_dst: Whether connections shall tell where they were going before iptables redirected them.
        identity: What each worker's readiness follows, as :class:`~linkerd_proxy.mesh.worker.Job` has it.
        task_status: Reports the workers, once all of them accept connections.

    Raises:
        InvalidConfiguration: if an address or the target can't be used, in the words of the worker that noticed.

    Cancellation kills the workers at once.
    """
    if workers < 1:
        raise InvalidConfiguration(f"workers={workers}: give at least 1")
    drain = drain or Drain()
    with ExitStack() as held:
        bound = [held.enter_context(one) for address in addresses for one in await reserve(address)]
        job = Job(
            target,
            [str(one.address) for one in bound],
            arguments or {},
            drain.grace,
            logging.getLevelName(logger.getEffectiveLevel()),
            original_dst,
            identity,
            current_log_format(),
        )
        group = Workers([one.address for one in bound], workers, job, drain)
        try:
            await group.run(task_status)
        except ExceptionGroup as failures:
            raise unwrapped(failures) from None


class Workers:
    """The processes that :func:`run_workers` keeps."""

    def __init__(self, addresses: Sequence[AnyAddress], count: int, job: Job, drain: Drain) -> None:
        self.addresses: tuple[AnyAddress, ...] = tuple(addresses)
        """Where they listen, with the ports that the system chose for port 0."""
        self.count = count
        self._job = job
        self._drain = drain
        self._live: dict[int, _Worker] = {}
        self._retired = Registry()
        self._started = trio.Event()
        self._certified = trio.Event()
        registry = current_registry()
        self._restarts = registry.counter("proxy_worker_restarts_total", "Workers started again after they died")

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that live now."""
        return [worker.process.pid for _, worker in sorted(self._live.items())]

    @property
    def ready(self) -> bool:
        """Whether every worker accepts connections, and can prove who it is if it has to."""
        ready = sum(worker.accepting and worker.certified for worker in self._live.values())
        return ready == self.count and not self._drain.draining

    async def wait_certified(self) -> None:
        """Wait until every worker is ready, and can prove who it is if it has to, for the first time."""
        await self._certified.wait()

    async def metrics(self) -> Registry:
        """Return the metrics of all workers and of the parent as one: counts summed, histograms merged exactly.

        What a dead worker counted stays in the sums, as it was when last asked. A worker that does not answer within
        5 seconds counts as it did when it last answered.
        """
        workers = list(self._live.values())
        with trio.move_on_after(_ANSWER):
            async with trio.open_nursery() as nursery:
                for worker in workers:
                    nursery.start_soon(worker.fetch)
        total = Registry()
        for registry in (current_registry(), self._retired, *(worker.metrics for worker in workers)):
            registry.collect()
            total.merge(registry)
        return total

    async def run(self, task_status: trio.TaskStatus[Workers]) -> None:
        """Keep the workers until the drain is over."""
        async with trio.open_nursery() as nursery:
            for index in range(self.count):
                nursery.start_soon(self._keep, index)
            await self._started.wait()
            task_status.started(self)
            await self._drain.wait()
            for worker in self._live.values():
                worker.process.send_signal(signal.SIGTERM)
            nursery.cancel_scope.deadline = trio.current_time() + self._drain.grace + _LATE

    async def _keep(self, index: int) -> None:
        pause = _PAUSE
        while True:
            since = trio.current_time()
            status = await self._run_one(index)
            if self._drain.draining:
                return
            if not self._started.is_set():
                raise InvalidConfiguration(f"a worker ended with status {status} before it was ready: see its log")
            if trio.current_time() - since > _SOUND:
                pause = _PAUSE
            logger.warning("worker %d ended with status %d, starting another in %g s", index, status, pause)
            self._restarts.value += 1
            with trio.move_on_after(pause):
                await self._drain.wait()
                return
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _run_one(self, index: int) -> int:
        worker = await _spawn(self._job)
        self._live[index] = worker
        try:
            if self._drain.draining:  # since before there was a process to tell
                worker.process.send_signal(signal.SIGTERM)
            await worker.listen(self._check)
            status = await worker.process.wait()
        finally:
            del self._live[index]
            self._retired.merge(worker.metrics, gauges=False)
            await worker.kill()
        if worker.failure and not self._started.is_set():
            raise InvalidConfiguration(worker.failure)
        return status

    def _check(self) -> None:
        if sum(worker.accepting for worker in self._live.values()) == self.count:
            self._started.set()
        if self.ready:
            self._certified.set()

    def __repr__(self) -> str:
        return f"<Workers {self.pids} on {', '.join(map(str, self.addresses))}>"


class _Worker:
    """One process, as the parent sees it."""

    __slots__ = (
        "_arrived",
        "_channel",
        "_families",
        "_lock",
        "accepting",
        "certified",
        "failure",
        "metrics",
        "process",
    )

    def __init__(self, process: trio.Process, channel: Channel, *, follows: bool) -> None:
        self.process = process
        self.accepting = False
        self.certified = not follows
        """Whether it can prove who it is, if its readiness follows that."""
        self.failure = ""
        self.metrics = Registry()
        """What it had counted when it last told."""
        self._channel = channel
        self._families: list[bytes] = []
        self._arrived = trio.Event()
        self._lock = trio.Lock()

    async def listen(self, on_news: Callable[[], None]) -> None:
        """Take what the process says until it ends."""
        while (line := await self._channel.receive()) is not None:
            message = json.loads(line)
            event = message.get("event")
            if event is None:
                self._families.append(line)
            elif event == "metrics":
                self.metrics, self._families = loaded(self._families), []
                self._arrived.set()
            elif event == "ready":
                self.accepting = True
                on_news()
            elif event == "certified":
                self.certified = message["text"] == "yes"
                on_news()
            else:
                self.failure = message["text"]
        self.accepting = False
        self._arrived.set()

    async def fetch(self) -> None:
        """Bring ``metrics`` up to date, unless the process is gone."""
        async with self._lock:
            self._arrived = trio.Event()
            try:
                await self._channel.send_event("tell")
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            await self._arrived.wait()

    async def kill(self) -> None:
        """End the process if it runs, and wait for it."""
        with trio.CancelScope(shield=True):
            self.process.kill()
            await self.process.wait()
            await self._channel.aclose()


async def _spawn(job: Job) -> _Worker:
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
    return _Worker(process, Channel(mine), follows=job.identity is not None)
