"""One worker process: ``python -m linkerd_proxy.mesh.worker JOB FD``, started by :mod:`linkerd_proxy.mesh.workers`."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import trio

from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import Listener, serve
from linkerd_proxy.core.shared import hosting
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.channel import Channel
from linkerd_proxy.mesh.identities import find_identity
from linkerd_proxy.mesh.load import Argument, load_stack
from linkerd_proxy.mesh.log_format import log_to
from linkerd_proxy.mesh.log_level import apply_log_level
from linkerd_proxy.mesh.readiness import follow_identity
from linkerd_proxy.mesh.settled import settle
from linkerd_proxy.mesh.signals import drain_on_signals
from linkerd_proxy.metrics.process import process_metrics
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.metrics.snapshot import dumped
from linkerd_proxy.tls.identity import Identity

__all__ = ["Job", "work"]


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker shall do: plain data, for it crosses to another process.

    Args:
        target: What to serve, as :func:`~linkerd_proxy.mesh.load.load_stack` reads it.
        arguments: For the target, if it is a function.
        addresses: Where to listen; the ports are shared with the other workers.
        grace: Seconds for a drain.
        log_level: Of the log and its parts, in Linkerd's words.
        log_format: The form of its lines.
        original_dst: Whether connections shall tell where they were going before iptables redirected them.
        identity: What readiness follows: a directory, empty for what the environment says, or None for nothing.
    """

    target: str
    addresses: list[str]
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    grace: float = 120.0
    log_level: str = "warn"
    original_dst: bool = False
    identity: str | None = None
    log_format: str = "PLAIN"

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Return what :meth:`to_json` wrote."""
        return cls(**json.loads(text))


async def work(job: Job, channel: Channel) -> int:
    """Serve until told to stop, or until the parent is gone, and answer what the parent asks meanwhile.

    Returns:
        The exit status: 0 after a drain, 2 if the job can't be done.
    """
    try:
        stack = load_stack(job.target, job.arguments)
        identity = None if job.identity is None else find_identity(job.identity or None)
        listeners = await open_listeners(*job.addresses, reuse_port=True, original_dst=job.original_dst)
        with process_metrics(current_registry()):
            await _serve(stack, listeners, Drain(job.grace), identity, channel)
            with trio.move_on_after(1):  # the last counts, so that none is lost with this process
                await _report(channel)
    except InvalidConfiguration as error:
        await channel.send_event("failed", str(error))
        return 2
    return 0


async def _serve(
    stack: Stack[Connection],
    listeners: Sequence[Listener],
    drain: Drain,
    identity: Identity | None,
    channel: Channel,
) -> None:
    try:
        async with hosting(), trio.open_nursery() as nursery:
            await nursery.start(drain_on_signals, drain, nursery.cancel_scope)
            nursery.start_soon(_answer, channel, drain, nursery)

            async def run(*, task_status: trio.TaskStatus[object]) -> None:
                await serve(stack, listeners, drain=drain, task_status=task_status)
                nursery.cancel_scope.cancel()

            await nursery.start(run)
            settle()
            await channel.send_event("ready")
            if identity is not None:
                await _tell_certified(nursery, channel, identity)
    except ExceptionGroup as failures:
        raise unwrapped(failures) from None


async def _tell_certified(nursery: trio.Nursery, channel: Channel, identity: Identity) -> None:
    def tell(certified: bool) -> None:
        nursery.start_soon(channel.send_event, "certified", "yes" if certified else "no")

    await follow_identity(identity, tell)


async def _answer(channel: Channel, drain: Drain, nursery: trio.Nursery) -> None:
    from linkerd_proxy.mesh.asked import Asked  # only a worker is asked

    asked = Asked(channel, nursery)
    while (line := await channel.receive()) is not None:
        message = json.loads(line)
        if message["event"] == "tell":
            await _report(channel)
        else:
            asked.take(message)
    drain.start()  # the parent is gone: nobody will ever tell this process to stop


async def _report(channel: Channel) -> None:
    try:
        for line in dumped(current_registry()):
            await channel.send(line)
        await channel.send_event("metrics")
    except trio.BrokenResourceError:
        return  # the parent is gone, as receive() will tell


def main() -> int:
    """Run the job of the command line, with the channel whose descriptor it names."""
    job = Job.from_json(sys.argv[1])
    descriptor = int(sys.argv[2])
    os.set_inheritable(descriptor, False)  # what a user's code spawns must not keep the parent waiting
    log_to(form=job.log_format, worker=os.getpid())
    apply_log_level(job.log_level)

    async def run() -> int:
        return await work(job, Channel(socket.socket(fileno=descriptor)))

    return trio.run(run)


if __name__ == "__main__":
    sys.exit(main())
