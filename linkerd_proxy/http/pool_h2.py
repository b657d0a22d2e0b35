"""Pools of HTTP/2 connections: few, shared by many exchanges at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.message import Whole
from linkerd_proxy.core.stack import Service
from linkerd_proxy.core.work import Dial, Exchange, Target
from linkerd_proxy.errors import ConnectFailed, Overloaded, UpstreamUnsent
from linkerd_proxy.http.deadlines import Deadline, Deadlines
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.no_http2 import SpeaksNoHttp2

if TYPE_CHECKING:
    from linkerd_proxy.http.h2.client import H2Client

__all__ = ["H2Pool"]


class _Kept:
    """What the pool knows of a connection: how many exchanges it serves, and when it is retired for want of them."""

    __slots__ = ("exchanges", "idle")

    def __init__(self, idle: Deadline) -> None:
        self.exchanges = 0
        self.idle = idle


class H2Pool:
    """The HTTP/2 connections to one target; a further one is made when no stream is left on the others.

    Args:
        target: Whom the connections reach.
        inner: Makes connections.
        nursery: Where they live.
        limits: How many connections, and how long requests wait.
        deadlines: Where their deadlines are swept.
        careful: Whether a target that speaks no HTTP/2 will be asked in HTTP/1: then no body is lost on finding out.
    """

    __slots__ = (
        "_careful",
        "_changed",
        "_clients",
        "_deadlines",
        "_dialling",
        "_failure",
        "_inner",
        "_limits",
        "_nursery",
        "_target",
        "refused",
    )

    def __init__(
        self,
        target: Target,
        inner: Service[Dial],
        nursery: trio.Nursery,
        limits: Limits,
        deadlines: Deadlines,
        *,
        careful: bool = False,
    ) -> None:
        self._target = target
        self._inner = inner
        self._nursery = nursery
        self._limits = limits
        self._deadlines = deadlines
        self._careful = careful
        self._clients: dict[H2Client, _Kept] = {}
        self._dialling = False
        self._failure: Exception | None = None
        self._changed = trio.Event()
        self.refused: bool = False
        """Whether the target has shown that it speaks no HTTP/2."""

    @property
    def unused(self) -> bool:
        """Whether it holds nothing at all."""
        return not self._clients and not self._dialling

    async def serve(self, exchange: Exchange) -> None:
        """Serve one exchange on one of the connections.

        A request that surely was not processed, and whose body is whole, is sent once more on another connection.
        """
        request = exchange.request
        try:
            await self._serve_once(exchange)
        except UpstreamUnsent:
            if not isinstance(request.body, Whole):
                raise
        else:
            return
        await self._serve_once(exchange)

    async def _serve_once(self, exchange: Exchange) -> None:
        client = self._available()
        if client is None:
            client = await self._wait_for_client()
        kept = self._clients[client]
        kept.exchanges += 1
        kept.idle.deadline = math.inf
        try:
            await client.exchange(exchange)
        except SpeaksNoHttp2:
            self.refused = True
            raise
        finally:
            kept.exchanges -= 1
            if not kept.exchanges:
                kept.idle.deadline = trio.current_time() + self._limits.h2_client_idle
            self._tell()

    def _available(self) -> H2Client | None:
        return next((client for client in self._clients if client.available), None)

    async def _wait_for_client(self) -> H2Client:
        client: H2Client | None = None
        with trio.move_on_after(self._limits.pool_wait):
            while (client := self._available()) is None:
                if not self._dialling and len(self._clients) < self._limits.h2_client_max_connections:
                    self._dialling = True
                    self._failure = None
                    self._nursery.start_soon(self._hold)
                changed = self._changed
                await changed.wait()
                if self._failure is not None and not self._dialling:
                    raise _again(self._failure)
        if client is None:
            raise Overloaded(
                f"no stream is free on {len(self._clients)} HTTP/2 connections (Limits(h2_client_max_connections=...))",
                layer="Client",
                waited=self._limits.pool_wait,
            )
        return client

    def _tell(self) -> None:
        """Wake everybody who waits for a connection or a stream."""
        if self._changed.statistics().tasks_waiting:
            changed, self._changed = self._changed, trio.Event()
            changed.set()

    async def _hold(self) -> None:
        """Keep one connection open until it is over. Raises nothing: it is nobody's service call."""
        connected = False  # of this dial: the next one may be under way before this one's connection is over

        async def use(stream: trio.abc.HalfCloseableStream) -> None:
            from linkerd_proxy.http.h2.client import H2Client

            nonlocal connected
            connected = True
            client = H2Client(self._limits, self._deadlines)
            client.careful = self._careful
            kept = self._clients[client] = _Kept(self._deadlines.add(client.retire))
            kept.idle.deadline = trio.current_time() + self._limits.h2_client_idle
            self._dialling = False
            self._tell()
            try:
                await client.run(stream)
            finally:
                del self._clients[client]
                self._deadlines.remove(kept.idle)
                self._tell()

        failure: Exception = ConnectFailed("the dial ended without a connection", layer="Client")
        try:
            await self._inner(Dial(self._target, use))
        except Exception as error:  # it is raised where the connection is waited for
            failure = unwrapped(error)
        finally:
            if not connected:
                self._failure = failure
                self._dialling = False
            self._tell()

    def __repr__(self) -> str:
        exchanges = sum(kept.exchanges for kept in self._clients.values())
        return f"<H2Pool of {len(self._clients)} connections, {exchanges} exchanges>"


def _again(error: Exception) -> Exception:
    """Return the error for one more of those who waited: one exception can't be raised in several tasks at once."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    copy.args = error.args
    return copy
