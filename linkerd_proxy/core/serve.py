"""Serving: accept connections, and keep each one's failure to itself."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from typing import Protocol

import trio

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.core.contain import contained
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Connection
from linkerd_proxy.metrics.registry import current_registry

__all__ = ["Listener", "default_max_connections", "serve"]

_RESERVED_FDS = 64  # for upstream connections and the admin endpoint, so that an attack leaves the proxy manageable


class Listener(Protocol):
    """Accepts connections on one address."""

    @property
    def address(self) -> AnyAddress:
        """Where it listens, with the port that the system chose for port 0."""

    async def accept(self) -> Connection:
        """Wait for the next connection. Raises trio.ClosedResourceError once closed."""

    async def aclose(self) -> None:
        """Stop listening."""


def default_max_connections() -> int:
    """Return how many connections fit: at most 10,000, and half of the process's file descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 10_000
    return max(1, min(10_000, soft // 2 - _RESERVED_FDS))


async def serve(
    stack: Stack[Connection],
    listeners: Sequence[Listener],
    *,
    drain: Drain | None = None,
    max_connections: int | None = None,
    task_status: trio.TaskStatus[Sequence[Listener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Open a stack and serve every connection of the listeners with it, until the drain is over.

    One connection's failure never reaches another: it is counted, logged on one line, and that connection ends.

    Args:
        stack: What serves a connection.
        listeners: Where connections come from; closed at the end.
        drain: Once started, nothing more is accepted, and ``serve`` returns when the last connection has ended or
            when ``drain.grace`` seconds have passed. Without one, only cancellation ends it.
        max_connections: How many connections are served at once; more are closed at once and counted.
        task_status: Reports the listeners when connections are being accepted.

    Cancellation closes the listeners and every connection.
    """
    drain = drain or Drain()
    room = _Room(default_max_connections() if max_connections is None else max_connections)
    async with opened(stack) as service, trio.open_nursery() as connections:
        try:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(_accept, listener, service, connections, drain, room)
                task_status.started(listeners)
                await drain.wait()
                accepting.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                for listener in listeners:
                    await listener.aclose()
        connections.cancel_scope.deadline = trio.current_time() + drain.grace


class _Room:
    """How many connections there are, and how many there may be."""

    __slots__ = ("accepted", "count", "held", "limit", "refused")

    def __init__(self, limit: int) -> None:
        registry = current_registry()
        self.limit = limit
        self.held = 0  # of this call alone: a flooded proxy must leave its admin endpoint room
        self.count = registry.gauge("proxy_open_connections", "Connections being served")
        self.accepted = registry.counter("proxy_accepted_total", "Connections accepted")
        self.refused = registry.counter("proxy_refused_total", "Connections closed at once for want of room")


async def _accept(
    listener: Listener, service: Service[Connection], connections: trio.Nursery, drain: Drain, room: _Room
) -> None:
    while True:
        connection = await listener.accept()
        if room.held >= room.limit:
            room.refused.value += 1
            await trio.aclose_forcefully(connection.stream)
            continue
        connection.drain = drain
        room.accepted.value += 1
        room.held += 1
        room.count.value += 1
        connections.start_soon(_serve_one, service, connection, room)


async def _serve_one(service: Service[Connection], connection: Connection, room: _Room) -> None:
    try:
        await contained(service, connection)
    finally:
        room.held -= 1
        room.count.value -= 1
