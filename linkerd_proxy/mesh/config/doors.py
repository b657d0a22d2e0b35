"""The listeners of a proxy that serves by a file: those that stay keep their sockets, others come and go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import trio

from linkerd_proxy.address import Address, AnyAddress
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import default_max_connections, serve
from linkerd_proxy.core.stack import Service, Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.io.listen import SocketListener, open_listeners
from linkerd_proxy.mesh.config.configuration import Bound
from linkerd_proxy.mesh.config.document import ProxyDocument
from linkerd_proxy.mesh.config.listeners import ListenerEntry

__all__ = ["Doors"]

_Key: TypeAlias = tuple[str, AnyAddress, bool]


@dataclass(frozen=True, slots=True, eq=False)
class _Door:
    """One listener of the file: its sockets, and the drain of what comes in there."""

    listeners: list[SocketListener]
    drain: Drain

    @property
    def addresses(self) -> tuple[AnyAddress, ...]:
        return tuple(listener.address for listener in self.listeners)


class Doors:
    """Opens and closes listeners as the file says, and serves what comes in there.

    Args:
        drain: The proxy's: once started, nothing more is accepted anywhere.
    """

    def __init__(self, drain: Drain) -> None:
        self._drain = drain
        self._doors: dict[_Key, _Door] = {}
        self._nursery: trio.Nursery | None = None
        self._service: Service[Connection] | None = None
        self.bound: Bound = {}
        """Where each listener of the file listens now."""

    @asynccontextmanager
    async def changing_to(self, document: ProxyDocument) -> AsyncIterator[Bound]:
        """Open what the document has more; close what it has less, if the block ends well. Yield where all are."""
        doors: dict[_Key, _Door] = {}
        fresh: list[_Door] = []
        whole = False
        try:
            for name, entry in document.listeners.items():
                key = _key(name, entry)
                door = self._doors.get(key)
                if door is None:
                    sockets = await open_listeners(entry.address, original_dst=entry.original_dst)
                    door = _Door(sockets, Drain(self._drain.grace))
                    fresh.append(door)
                doors[key] = door
            bound = {name: doors[_key(name, entry)].addresses for name, entry in document.listeners.items()}
            yield bound
            whole = True
        finally:
            if not whole:
                for door in fresh:
                    for listener in door.listeners:
                        listener.close()
        gone = [door for key, door in self._doors.items() if key not in doors]
        self._doors, self.bound = doors, bound
        self._drain.grace = document.grace
        for door in fresh:
            self._start(door)
        for door in gone:
            door.drain.grace = document.grace
            door.drain.start()

    async def serve(self, service: Service[Connection], *, task_status: trio.TaskStatus[None]) -> None:
        """Serve what comes in, until the drain is over."""
        self._service = service
        async with trio.open_nursery() as self._nursery:
            with self._drain.calling(self._drain_all):
                for door in self._doors.values():
                    self._start(door)
                task_status.started()
                await self._drain.wait()

    def close(self) -> None:
        """Close every listener at once. A second call changes nothing."""
        for door in self._doors.values():
            for listener in door.listeners:
                listener.close()

    def _drain_all(self) -> None:
        for door in self._doors.values():
            door.drain.grace = self._drain.grace
            door.drain.start()

    def _start(self, door: _Door) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._serve, door)

    async def _serve(self, door: _Door) -> None:
        assert self._service is not None
        room = max(1, default_max_connections() // max(1, len(self._doors)))
        try:
            await serve(_Opened(self._service), door.listeners, drain=door.drain, max_connections=room)
        except OSError:  # it is in the log; the others go on
            if all(other is door for other in self._doors.values()):
                raise


def _key(name: str, entry: ListenerEntry) -> _Key:
    # Ports that the system chooses belong to a name; all others may be renamed and keep their sockets.
    chosen = isinstance(entry.address, Address) and not entry.address.port
    return name if chosen else "", entry.address, entry.original_dst


@dataclass(frozen=True, slots=True)
class _Opened(Stack[Connection]):
    """A service that is open already, as a stack."""

    service: Service[Connection]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        service = self.service

        def serve_it(connection: Connection) -> Awaitable[None]:
            return service(connection)

        yield serve_it
