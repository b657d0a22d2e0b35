"""A stack in whose place another one can be put while it serves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, Generic

import trio
from typing_extensions import TypeVar

from linkerd_proxy.core.background import open_background, unwrapped
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.ready import Ready, announce_ready, hearing_ready
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Connection

__all__ = ["Swap"]

W = TypeVar("W", default=Connection)

_MOST = 32  # stacks that may drain at once: own figure, so that no storm of changes fills the memory


class Swap(Stack[W]):
    """Serves by one stack, until another is put in its place: ``await swap.replace(another)``.

    New work goes to the new stack at once. What the old one has may finish, and no request is lost: HTTP/1 answers say
    "Connection: close", HTTP/2 says GOAWAY, and a connection that waits between two requests may ask once more. What is
    left of it after the grace is cancelled, and so is the oldest of more than 32 old stacks.

    Resources that both stacks *name* (an identity, a discovery) stay open all the while; so make the new stack with the
    same objects where nothing has changed about them.

    Args:
        stack: What serves first.
        grace: Seconds that work of a stack which was replaced may take (Linkerd's drain: 120).

    Cancellation reaches the work that is being served, whichever stack serves it.
    """

    __slots__ = ("_live", "_lock", "grace", "stack")

    def __init__(self, stack: Stack[W], *, grace: float = 120.0) -> None:
        self.stack: Stack[W] = stack
        """What serves new work."""
        self.grace: float = grace
        self._live: list[_Swapping[W]] = []
        self._lock = trio.Lock()

    async def replace(self, stack: Stack[W]) -> None:
        """Open another stack and let it serve from now on; the old one drains in the background.

        Raises what opening it raises; then nothing has changed. So it is with a cancellation that comes meanwhile.
        """
        async with self._lock, AsyncExitStack() as prepared:
            ready = [(live, await prepared.enter_async_context(live.prepared(stack))) for live in self._live]
            # Nothing waits from here on: every opening changes over at the same moment.
            for live, generation in ready:
                live.change_to(generation)
            self.stack = stack

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[W]]:
        """Open the stack, and yield the live service."""
        async with open_background() as nursery:
            live = _Swapping[W](nursery, self.grace)
            async with self._lock, live.prepared(self.stack) as first:
                live.change_to(first)
                self._live.append(live)
            announce_ready(live.is_ready)
            try:
                yield live.serve
            finally:
                self._live.remove(live)
            await live.close()

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return what serves now."""
        return [("now", self.stack)]

    def title(self) -> str:
        """Return the line without the stack."""
        return "Swap()" if self.grace == 120 else f"Swap(grace={self.grace:g})"

    def __repr__(self) -> str:
        return f"Swap({self.stack!r})" if self.grace == 120 else f"Swap({self.stack!r}, grace={self.grace:g})"


class _Swapping(Generic[W]):
    """One opened Swap."""

    __slots__ = ("_current", "_grace", "_nursery", "_old")

    def __init__(self, nursery: trio.Nursery, grace: float) -> None:
        self._nursery = nursery
        self._grace = grace
        self._current: _Generation[W] | None = None
        self._old: list[_Generation[W]] = []

    @asynccontextmanager
    async def prepared(self, stack: Stack[W]) -> AsyncIterator[_Generation[W]]:
        """Open a stack in a task of its own, and close it again unless it was changed to in the block."""
        generation = _Generation[W](self._grace)
        failed = await self._nursery.start(generation.run, stack)
        if failed is not None:
            raise failed
        try:
            yield generation
        finally:
            if generation is not self._current:
                generation.retire()

    def change_to(self, generation: _Generation[W]) -> None:
        """Let a generation serve from now on, and the present one finish."""
        old, self._current = self._current, generation
        if old is not None:
            self._old = [one for one in self._old if not one.over.is_set()] + [old]
            old.retire()
            for one in self._old[:-_MOST]:
                one.cut_off()

    async def close(self) -> None:
        """Close the stacks in good order: there is no work any more."""
        if self._current is not None:
            self._current.retire()
            for generation in (*self._old, self._current):
                await generation.over.wait()

    def is_ready(self) -> bool:
        """Whether what serves now need not wait for anything."""
        current = self._current
        return current is None or not current.heard or any(ready() for ready in current.heard)

    async def serve(self, work: W) -> None:
        """Serve one piece of work by what serves now."""
        assert self._current is not None
        await self._current.serve(work)


class _Generation(Generic[W]):
    """One stack, from its opening until its last work is done."""

    __slots__ = ("_drains", "_ends", "_grace", "_idle", "_scopes", "_service", "heard", "over")

    def __init__(self, grace: float) -> None:
        self.heard: list[Ready] = []
        self.over = trio.Event()
        self._grace = grace
        self._service: Service[W] | None = None
        self._scopes: set[trio.CancelScope] = set()
        self._drains: set[Drain] = set()
        self._idle = trio.Event()
        self._ends: float | None = None

    async def run(self, stack: Stack[W], *, task_status: trio.TaskStatus[Exception | None]) -> None:
        """Keep the stack open until it is retired and has no more work. Reports what kept it from opening."""
        serves = False
        try:
            with hearing_ready() as self.heard:
                async with opened(stack) as self._service:
                    serves = True
                    task_status.started(None)
                    await self._idle.wait()
        except Exception as error:
            if serves:
                raise
            task_status.started(unwrapped(error))
        finally:
            self.over.set()

    async def serve(self, work: W) -> None:
        """Serve one piece of work."""
        assert self._service is not None
        scope = trio.CancelScope()
        self._scopes.add(scope)
        try:
            with scope:
                if isinstance(work, Connection):
                    await self._serve_connection(work, self._service)
                else:
                    await self._service(work)
        finally:
            self._scopes.remove(scope)
            self._end_if_idle()

    async def _serve_connection(self, connection: Connection, service: Service[Any]) -> None:
        """Serve a connection with a drain of its own, which starts with the server's at the latest."""
        outer = connection.drain
        drain = Drain(outer.grace)
        self._drains.add(drain)
        try:
            with outer.calling(lambda: drain.start(patient=outer.patient), early=True):
                await service(replace(connection, drain=drain))
        finally:
            self._drains.remove(drain)

    def retire(self) -> None:
        """Let the work finish that is there; more than the grace it does not get."""
        self._ends = trio.current_time() + self._grace
        for drain in self._drains:
            drain.start(patient=True)
        for scope in self._scopes:
            scope.deadline = self._ends
        self._end_if_idle()

    def cut_off(self) -> None:
        """Cancel what is left."""
        for scope in self._scopes:
            scope.cancel()

    def _end_if_idle(self) -> None:
        if self._ends is not None and not self._scopes:
            self._idle.set()
