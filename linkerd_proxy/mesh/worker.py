"""One worker process: ``python -m linkerd_proxy.mesh.worker JOB FD``, started by :mod:`linkerd_proxy.mesh.workers`."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import trio

from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import serve
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.channel import Channel
from linkerd_proxy.mesh.load import Argument, load_stack
from linkerd_proxy.mesh.settled import settle
from linkerd_proxy.mesh.signals import drain_on_signals
from linkerd_proxy.metrics.process import process_metrics
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.metrics.snapshot import dumped

__all__ = ["Job", "work"]


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker shall do: plain data, for it crosses to another process.

    Args:
        target: What to serve, as :func:`~linkerd_proxy.mesh.load.load_stack` reads it.
        arguments: For the target, if it is a function.
        addresses: Where to listen; the ports are shared with the other workers.
        grace: Seconds for a drain.
        log_level: Of the ``linkerd_proxy`` logger.
    """

    target: str
    addresses: list[str]
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    grace: float = 120.0
    log_level: str = "WARNING"

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
    drain = Drain(job.grace)
    try:
        stack = load_stack(job.target, job.arguments)
        listeners = await open_listeners(*job.addresses, reuse_port=True)
    except InvalidConfiguration as error:
        await channel.send_event("failed", str(error))
        return 2
    with process_metrics(current_registry()):
        async with trio.open_nursery() as nursery:
            await nursery.start(drain_on_signals, drain, nursery.cancel_scope)
            nursery.start_soon(_answer, channel, drain)

            async def run(*, task_status: trio.TaskStatus[object]) -> None:
                await serve(stack, listeners, drain=drain, task_status=task_status)
                nursery.cancel_scope.cancel()

            await nursery.start(run)
            settle()
            await channel.send_event("ready")
        with trio.move_on_after(1):  # the last counts, so that none is lost with this process
            await _report(channel)
    return 0


async def _answer(channel: Channel, drain: Drain) -> None:
    while await channel.receive() is not None:
        await _report(channel)
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
    logging.basicConfig(level=logging.WARNING, format=f"%(levelname)s worker {os.getpid()}: %(message)s")
    logging.getLogger("linkerd_proxy").setLevel(job.log_level)

    async def run() -> int:
        return await work(job, Channel(socket.socket(fileno=descriptor)))

    return trio.run(run)


if __name__ == "__main__":
    sys.exit(main())
