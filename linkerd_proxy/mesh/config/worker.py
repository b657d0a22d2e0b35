"""What a worker process serves by a file, from plain data."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from linkerd_proxy.address import AnyAddress, parse_address
from linkerd_proxy.core.background import open_background
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Connection
from linkerd_proxy.mesh.config.configuration import Bound, Configuration
from linkerd_proxy.mesh.load import Argument

__all__ = ["TARGET", "as_arguments", "configured", "reload_on_hangup"]

TARGET = "linkerd_proxy.mesh.config.worker:configured"
"""As :func:`~linkerd_proxy.mesh.load.load_stack` reads it."""


def as_arguments(path: str, bound: Bound, grace: float | None) -> dict[str, Argument]:
    """Return the arguments of :func:`configured` as plain data."""
    told = [f"{name}={one}" for name, addresses in bound.items() for one in addresses]
    return {"path": path, "bound": told, "grace": grace}


def configured(*, path: str, bound: Sequence[str], grace: float | None) -> Stack[Connection]:
    """Return the stack that serves by a file, reads it again when it changes, and at SIGHUP.

    Args:
        path: The file.
        bound: ``name=address`` for where each listener listens.
        grace: Seconds for what drains, in the place of what the file says.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # one that comes before somebody listens must not end the process
    addresses: dict[str, list[AnyAddress]] = {}
    for text in bound:
        name, _, address = text.rpartition("=")
        addresses.setdefault(name, []).append(parse_address(address))
    return _Worker(path, addresses, grace)


@dataclass(frozen=True, slots=True)
class _Worker(Stack[Connection]):
    path: str
    bound: Mapping[str, Sequence[AnyAddress]]
    grace: float | None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        configuration = Configuration(self.path, bound=self.bound, grace=self.grace)
        async with opened(configuration.swap) as service, open_background() as nursery:
            await nursery.start(reload_on_hangup, configuration)
            nursery.start_soon(configuration.follow)
            yield service


async def reload_on_hangup(
    configuration: Configuration, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Read the file again at each SIGHUP, for ever. Must run in the main thread."""
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            await configuration.reload()
