"""Serving: accept connections, and keep each one's failure to itself."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.core.contain import contained
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Connection
from linkerd_proxy.metrics.registry import current_registry

__all__ = ["Listener", "default_max_connections", "serve"]

logger: logging.Logger = logging.getLogger("linkerd_proxy")

_REST = 1024  # connections that a drain still takes: so many a backlog may hold, and no stream of new ones
_RESERVED_FDS = 64  # for upstream connections and the admin endpoint, so that an attack leaves the proxy manageable


class Listener(Protocol):
    """Accepts connections on one address."""

    @property
    def address(self) -> AnyAddress:
        """Where it listens, with the port that the system chose for port 0."""
        ...

    async def accept(self) -> Connection:
        """Wait for the next connection. Raises trio.ClosedResourceError once closed.

        One that has ``accept_nowait`` too, which raises trio.WouldBlock instead of waiting, loses nobody at a drain who
        had connected before.
        """
        ...

    async def aclose(self) -> None:
        """Stop listening."""


def default_max_connections() -> int:
    """Return how many connections fit: at most 10,000, and half of the process's file descriptors."""
    if sys.platform == "win32":
        return 10_000  # no such limit there
    import resource  # Unix only

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
        drain: Once started, who has connected by then is served, nobody else is accepted, and ``serve`` returns when
            the last connection has ended or when ``drain.grace`` seconds have passed. Without one, only cancellation
            ends it.
        max_connections: How many connections are served at once; more are closed at once and counted.
        task_status: Reports the listeners when connections are being accepted.

    Raises:
        Exception: what the last listener failed with, if every one failed, after the connections have ended as in a
            drain. As long as one accepts, the others' failures are logged and counted.

    Cancellation closes the listeners and every connection.
    """
    drain = drain or Drain()
    room = _Room(default_max_connections() if max_connections is None else max_connections)
    failures: list[Exception] = []
    try:
        async with opened(stack) as service, trio.open_nursery() as connections:
            with trio.CancelScope() as accepting, drain.calling(accepting.cancel):
                async with trio.open_nursery() as nursery:
                    for listener in listeners:
                        nursery.start_soon(_accept, listener, service, connections, drain, room, failures)
                    task_status.started(listeners)
                    if not listeners:
                        await drain.wait()  # a stack may have work of its own
            if drain.draining:
                for listener in listeners:
                    await _accept_rest(listener, service, connections, drain, room)
            await _close(listeners)
            if drain.draining or failures:
                connections.cancel_scope.deadline = trio.current_time() + drain.grace
    finally:
        await _close(listeners)
    if failures and len(failures) == len(listeners):
        raise failures[-1]


async def _close(listeners: Sequence[Listener]) -> None:
    with trio.CancelScope(shield=True):
        for listener in listeners:
            try:
                await listener.aclose()
            except Exception as error:  # the others must be closed too
                logger.warning("could not close the listener on %s: %s", listener.address, error)


class _Room:
    """How many connections there are, and how many there may be."""

    __slots__ = ("accepted", "count", "failed", "limit", "live", "refused")

    def __init__(self, limit: int) -> None:
        registry = current_registry()
        self.limit = limit
        self.live = 0
        """Here alone: several servers of one run share the gauge."""
        self.count = registry.gauge("proxy_open_connections", "Connections being served")
        self.accepted = registry.counter("proxy_accepted_total", "Connections accepted")
        self.refused = registry.counter("proxy_refused_total", "Connections closed at once for want of room")
        self.failed = registry.counter("proxy_listener_failures_total", "Listeners that an error made useless")


async def _accept(
    listener: Listener,
    service: Service[Connection],
    connections: trio.Nursery,
    drain: Drain,
    room: _Room,
    failures: list[Exception],
) -> None:
    while True:
        try:
            connection = await listener.accept()
        except trio.ClosedResourceError:
            return  # somebody closed it on purpose
        except Exception as error:  # the other listeners go on
            error.add_note(f"listener {listener.address}")
            failures.append(error)
            room.failed.value += 1
            logger.error("the listener on %s accepts no more: %s", listener.address, error)
            return
        await _admit(connection, service, connections, drain, room)


async def _accept_rest(
    listener: Listener, service: Service[Connection], connections: trio.Nursery, drain: Drain, room: _Room
) -> None:
    """Serve those who have connected: the system has told them so, and they may have asked already."""
    accept_nowait: Callable[[], Connection] | None = getattr(listener, "accept_nowait", None)
    if accept_nowait is None:
        return
    for _ in range(_REST):
        try:
            connection = accept_nowait()
        except (trio.WouldBlock, trio.ClosedResourceError, OSError):
            return
        await _admit(connection, service, connections, drain, room)


async def _admit(
    connection: Connection, service: Service[Connection], connections: trio.Nursery, drain: Drain, room: _Room
) -> None:
    if room.live >= room.limit:
        room.refused.value += 1
        await contained(_refuse, connection)
        return
    connection.drain = drain
    room.accepted.value += 1
    room.live += 1
    room.count.value += 1
    connections.start_soon(_serve_one, service, connection, room)


async def _refuse(connection: Connection) -> None:
    """Close a connection that there is no room for, without waiting for its peer."""
    await trio.aclose_forcefully(connection.stream)


async def _serve_one(service: Service[Connection], connection: Connection, room: _Room) -> None:
    try:
        await contained(service, connection)
    finally:
        room.live -= 1
        room.count.value -= 1
