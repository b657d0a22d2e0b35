"""Several processes on one port: a parent that starts them, restarts them, drains them and adds up their metrics."""

from __future__ import annotations

import itertools
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import trio

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.message import Body, Whole
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.load import Argument
from linkerd_proxy.mesh.log_format import current_log_format
from linkerd_proxy.mesh.log_level import apply_log_level, shown_log_level
from linkerd_proxy.mesh.log_stream import LogStream, open_log
from linkerd_proxy.mesh.observed import Observed, observed_here, together
from linkerd_proxy.mesh.reserve import reserve
from linkerd_proxy.mesh.tap_stream import TapReader, TapWish
from linkerd_proxy.mesh.worker import Job
from linkerd_proxy.mesh.worker_process import Gathered, WorkerProcess, spawn
from linkerd_proxy.metrics.registry import Registry, current_registry
from linkerd_proxy.metrics.taps import current_taps

__all__ = ["Workers", "run_workers"]

logger: logging.Logger = logging.getLogger("linkerd_proxy")

_PAUSE = 0.1  # seconds before the first restart, doubled each time, up to ...
_LONGEST_PAUSE = 10.0
_SOUND = 10.0  # a worker that lived as long starts the next pause from the beginning
_ANSWER = 5.0  # seconds that a worker has to answer
_CLOSING = 1.0  # seconds that closing a stream may take
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
            shown_log_level(),
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
    """The processes that :func:`run_workers` keeps, and what the admin endpoint sees of them as one.

    Questions and answers pass between them and this process in private; whoever of them does not answer within 5
    seconds is left out.
    """

    def __init__(self, addresses: Sequence[AnyAddress], count: int, job: Job, drain: Drain) -> None:
        self.addresses: tuple[AnyAddress, ...] = tuple(addresses)
        """Where they listen, with the ports that the system chose for port 0."""
        self.count = count
        self._job = job
        self._drain = drain
        self._live: dict[int, WorkerProcess] = {}
        self._retired = Registry()
        self._started = trio.Event()
        self._certified = trio.Event()
        self._streams: dict[int, Gathered] = {}
        self._numbers = itertools.count(1)
        self._nursery: trio.Nursery | None = None
        self._levels: str | None = None
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

    async def tasks(self) -> Body:
        """Return the task trees of all workers as text, each under its process id, and that of the parent."""
        from linkerd_proxy.mesh.asked import tasks_here

        lines = [f"parent {os.getpid()}", *(f"    {line}" for line in await tasks_here())]
        for index, worker, found in await self._ask("tasks"):
            lines.append(f"worker {worker.process.pid}, number {index}")
            silent = [f"it did not answer within {_ANSWER:g} s"]
            lines += [f"    {line}" for line in (silent if found is None else found)]
        return Whole("".join(f"{line}\n" for line in lines).encode())

    async def observed(self) -> Observed:
        """Return the endpoints and failures of all workers as one."""
        told = [found for _, _, found in await self._ask("observed") if found is not None]
        return together([observed_here(), *map(Observed.from_data, told)])

    def apply_log_level(self, text: str) -> None:
        """Set the levels of the log here and in every worker, also in those that are started later.

        Raises:
            InvalidConfiguration: if it names no level; then nothing is changed.
        """
        apply_log_level(text)
        self._levels = text
        for worker in self._live.values():
            self._start(worker.send, {"event": "log-level", "text": text})

    @asynccontextmanager
    async def tapped(self, wish: TapWish) -> AsyncIterator[TapReader]:
        """Look at the traffic of all workers inside the block, also of those that are started meanwhile.

        Raises:
            InvalidConfiguration: for a wish that means nothing.
            Overloaded: if too many taps are open.
        """
        from linkerd_proxy.mesh.gathered import GatheredTap

        # This process has no traffic; but here the wish is checked, and how many there are.
        with current_taps().open(wish.match(), limit=wish.limit, sample=wish.sample):
            tap = GatheredTap(wish)
            async with self._gathering(tap):
                yield tap

    @asynccontextmanager
    async def logged(self, text: str) -> AsyncIterator[LogStream]:
        """Take the lines that all workers log inside the block, and those of this process.

        Raises:
            InvalidConfiguration: if the text names no level.
            Overloaded: if too many streams are open.
        """
        from linkerd_proxy.mesh.gathered import GatheredLog

        with open_log(text) as stream:
            async with self._gathering(GatheredLog(stream, text)):
                yield stream

    @asynccontextmanager
    async def _gathering(self, stream: Gathered) -> AsyncIterator[None]:
        number = next(self._numbers)
        self._streams[number] = stream
        try:
            await self._ask_all(_opening(number, stream))  # until they look: what comes from now on is seen
            yield
        finally:
            del self._streams[number]
            # Before anything else is opened, which would be one too many there; the bytes are few and find room.
            with trio.move_on_after(_CLOSING, shield=True):
                for worker in list(self._live.values()):
                    await worker.send({"event": "close", "id": number})

    def _start(self, say: Callable[[Mapping[str, Any]], Awaitable[Any]], message: Mapping[str, Any]) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(say, message)

    async def _ask(self, what: str) -> list[tuple[int, WorkerProcess, Any]]:
        return await self._ask_all({"event": "ask", "id": next(self._numbers), "what": what})

    async def _ask_all(self, message: Mapping[str, Any]) -> list[tuple[int, WorkerProcess, Any]]:
        """Return what each worker answers, None where it does not in time."""
        found: dict[int, Any] = {}

        async def ask(index: int, worker: WorkerProcess) -> None:
            found[index] = await worker.ask(message)

        workers = sorted(self._live.items())
        with trio.move_on_after(_ANSWER):
            async with trio.open_nursery() as nursery:
                for index, worker in workers:
                    nursery.start_soon(ask, index, worker)
        return [(index, worker, found.get(index)) for index, worker in workers]

    async def run(self, task_status: trio.TaskStatus[Workers]) -> None:
        """Keep the workers until the drain is over."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
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
        worker = await spawn(self._job, self)
        self._live[index] = worker
        for number, stream in self._streams.items():
            self._start(worker.ask, _opening(number, stream))
        if self._levels is not None:
            self._start(worker.send, {"event": "log-level", "text": self._levels})
        try:
            if self._drain.draining:  # since before there was a process to tell
                worker.process.send_signal(signal.SIGTERM)
            await worker.listen()
            status = await worker.process.wait()
        finally:
            del self._live[index]
            for stream in self._streams.values():
                stream.leave(worker.process.pid)
            self._retired.merge(worker.metrics, gauges=False)
            await worker.kill()
        if worker.failure and not self._started.is_set():
            raise InvalidConfiguration(worker.failure)
        return status

    def check(self) -> None:
        """Look whether all are ready now: one of them has said something about it."""
        if sum(worker.accepting for worker in self._live.values()) == self.count:
            self._started.set()
        if self.ready:
            self._certified.set()

    def take(self, pid: int, message: Mapping[str, Any]) -> None:
        """Give what a worker streams to whom it is for; others have gone."""
        stream = self._streams.get(message["id"])
        if stream is not None and message["event"] == "batch":
            stream.take(pid, message["items"], message["dropped"])
        elif stream is not None:
            stream.leave(pid)

    def __repr__(self) -> str:
        return f"<Workers {self.pids} on {', '.join(map(str, self.addresses))}>"


def _opening(number: int, stream: Gathered) -> Mapping[str, Any]:
    return {"event": "open", "id": number, "what": stream.what, "wish": stream.wish}
