"""Pools of HTTP/1 connections: few connections, used again as long as nothing about them was odd."""

from __future__ import annotations

import math
from collections import deque

import trio

from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.clock import open_clock
from linkerd_proxy.core.stack import Service
from linkerd_proxy.core.work import Dial, Target
from linkerd_proxy.errors import ConnectFailed, Overloaded
from linkerd_proxy.http.deadlines import Deadlines
from linkerd_proxy.http.h1.client import ClientConnection
from linkerd_proxy.http.h1.heads import Heads

__all__ = ["Pool"]


class _Waiter:
    """Somebody who waits for a connection, or for room to make one."""

    __slots__ = ("abandoned", "authority", "connection", "event", "failure")

    def __init__(self, authority: str) -> None:
        self.authority = authority
        self.abandoned = False
        self.event = trio.Event()
        self.connection: ClientConnection | None = None
        self.failure: Exception | None = None


class Pool:
    """The HTTP/1 connections to one target.

    Connections are kept by authority, as Linkerd keeps them: a connection on which one host was asked is not used for
    another. A connection lives in a task of its own inside ``Dial.use``, in the client layer's nursery.

    Args:
        target: Whom the connections reach.
        inner: Makes connections.
        nursery: Where they live.
        heads: The codec and the limits.
        deadlines: Where their deadlines are swept.
    """

    __slots__ = (
        "_clock",
        "_deadlines",
        "_heads",
        "_idle",
        "_idle_count",
        "_inner",
        "_nursery",
        "_target",
        "_waiting",
        "count",
    )

    def __init__(
        self, target: Target, inner: Service[Dial], nursery: trio.Nursery, heads: Heads, deadlines: Deadlines
    ) -> None:
        self._clock = open_clock()
        self._target = target
        self._inner = inner
        self._nursery = nursery
        self._heads = heads
        self._deadlines = deadlines
        self._idle: dict[str, list[ClientConnection]] = {}
        self._idle_count = 0
        self._waiting: deque[_Waiter] = deque()
        self.count: int = 0
        """Connections that exist or are being made."""

    @property
    def unused(self) -> bool:
        """Whether it holds nothing at all."""
        return not self.count and not self._waiting

    def take(self, authority: str) -> ClientConnection | None:
        """Return an unused connection that is fit for use, or None."""
        kept = self._idle.get(authority)
        while kept:
            connection = kept.pop()
            self._idle_count -= 1
            connection.reading.deadline = math.inf
            if connection.is_quiet():
                return connection
            connection.close(abort=False)
        return None

    async def connect(self, authority: str) -> ClientConnection:
        """Make a connection, waiting for room if there is none (and taking one for this authority that comes free).

        Raises:
            Overloaded: if too many wait already, or room does not come in time.
            ConnectFailed: or whatever else the inner layers raise.

        Cancelled, it closes the connection being made.
        """
        if self.count >= self._heads.limits.max_connections and not self._evict():
            waiter = await self._wait_for_room(authority)
            if waiter.connection is not None:
                return waiter.connection
        self.count += 1
        waiter = _Waiter(authority)
        self._nursery.start_soon(self._hold, waiter)
        try:
            await waiter.event.wait()
        except trio.Cancelled:
            waiter.abandoned = True
            if waiter.connection is not None:
                waiter.connection.close(abort=False)
            raise
        if waiter.failure is not None:
            raise waiter.failure
        assert waiter.connection is not None
        return waiter.connection

    async def _wait_for_room(self, authority: str) -> _Waiter:
        limits = self._heads.limits
        if len(self._waiting) >= limits.max_waiting:
            raise Overloaded(
                f"{limits.max_waiting} requests wait for a connection already (Limits(max_waiting=...))", layer="Client"
            )
        waiter = _Waiter(authority)
        self._waiting.append(waiter)
        try:
            with trio.move_on_after(limits.pool_wait):
                await waiter.event.wait()
        except trio.Cancelled:
            if waiter.event.is_set():
                self._pass_on(waiter)
            raise
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
        if not waiter.event.is_set():
            raise Overloaded(
                f"all {limits.max_connections} connections are in use (Limits(max_connections=...))",
                layer="Client",
                waited=limits.pool_wait,
            )
        return waiter

    def _pass_on(self, waiter: _Waiter) -> None:
        """Give what a cancelled waiter got to the next."""
        if waiter.connection is not None:
            waiter.connection.close(abort=False)
        elif self._waiting:
            self._waiting.popleft().event.set()

    def release(self, connection: ClientConnection, authority: str, *, clean: bool) -> None:
        """Take a connection back after an exchange: keep it for the next if nothing was odd, close it otherwise."""
        limits = self._heads.limits
        if not (clean and connection.reusable):
            connection.close(abort=not clean)
            return
        if self._waiting:
            self._hand_over(connection, authority)
            return
        if self._idle_count >= limits.max_idle:
            connection.close(abort=False)
            return
        connection.reading.deadline = self._clock() + limits.pool_idle
        self._idle.setdefault(authority, []).append(connection)
        self._idle_count += 1

    def _hand_over(self, connection: ClientConnection, authority: str) -> None:
        """Give a connection to who waits for one, if it is for the same authority; otherwise make room."""
        waiter = self._waiting[0]
        if waiter.authority == authority and connection.is_quiet():
            self._waiting.popleft()
            waiter.connection = connection
            waiter.event.set()
        else:
            connection.close(abort=False)

    def _forget(self, connection: ClientConnection) -> None:
        for authority, kept in list(self._idle.items()):
            if connection in kept:
                kept.remove(connection)
                self._idle_count -= 1
            if not kept:
                del self._idle[authority]

    def _evict(self) -> bool:
        """Close the longest unused connection of any authority; return whether there was one."""
        for authority, kept in self._idle.items():
            if kept:
                connection = kept.pop(0)
                self._idle_count -= 1
                if not kept:
                    del self._idle[authority]
                connection.close(abort=False)
                return True
        return False

    async def _hold(self, waiter: _Waiter) -> None:
        """Keep one connection open until it is given up. Raises nothing: it is nobody's service call."""

        async def use(stream: trio.abc.HalfCloseableStream) -> None:
            if waiter.abandoned:
                return
            connection = ClientConnection(stream, self._heads, self._deadlines, str(self._target.address or ""))
            waiter.connection = connection
            waiter.event.set()
            try:
                await connection.wait_closed()
            finally:
                self._forget(connection)
                self._deadlines.remove(connection.reading)
                self._deadlines.remove(connection.writing)

        try:
            await self._inner(Dial(self._target, use))
            if waiter.connection is None:
                waiter.failure = ConnectFailed("the dial ended without a connection", layer="Client")
        except Exception as error:  # it is raised where the connection is waited for
            waiter.failure = unwrapped(error)
        finally:
            self.count -= 1
            waiter.event.set()
            if self._waiting and self.count < self._heads.limits.max_connections:
                self._waiting.popleft().event.set()

    def __repr__(self) -> str:
        return f"<Pool of {self.count} connections, {self._idle_count} idle, {len(self._waiting)} waiting>"
