"""One length of time that many pieces of work may take, at the cost of one task."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from linkerd_proxy.core.background import open_background

__all__ = ["Expiry", "open_expiry"]


class Expiry:
    """Lets cancel scopes expire ``seconds`` after they were put in, unless they are taken out before.

    Trio keeps the deadlines of scopes that have ended in a heap until they would have been due: under load each costs
    more than the scope itself. Here all have the same time, so that the first that came in is the first that is due.

    Args:
        seconds: How long; more than 0.
    """

    __slots__ = ("_scopes", "_sleeper", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds: float = seconds
        self._scopes: dict[trio.CancelScope, float] = {}
        self._sleeper: trio.lowlevel.Task | None = None

    def add(self, scope: trio.CancelScope) -> None:
        """Let the time of an entered scope begin. It expires as if by a deadline of its own."""
        self._scopes[scope] = trio.current_time() + self.seconds
        if self._sleeper is not None:
            sleeper, self._sleeper = self._sleeper, None
            trio.lowlevel.reschedule(sleeper)

    def discard(self, scope: trio.CancelScope) -> None:
        """Let a scope be; one that is out already is no error."""
        self._scopes.pop(scope, None)

    def __len__(self) -> int:
        return len(self._scopes)

    async def run(self) -> None:
        """Let expire what is due, for ever."""
        scopes = self._scopes
        while True:
            if not scopes:
                await self._wait()
                continue  # what was put in may be out again
            scope, due = next(iter(scopes.items()))
            if due > trio.current_time():
                await trio.sleep_until(due)
            if scopes.pop(scope, None) is not None and due <= trio.current_time():
                scope.deadline = due  # so that it says why, unlike a cancellation

    async def _wait(self) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._sleeper = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def __repr__(self) -> str:
        return f"<Expiry of {len(self._scopes)} scopes after {self.seconds:g} s>"


@asynccontextmanager
async def open_expiry(seconds: float) -> AsyncIterator[Expiry]:
    """Yield what lets scopes expire until the end of the block."""
    expiry = Expiry(seconds)
    async with open_background() as nursery:
        nursery.start_soon(expiry.run)
        yield expiry
