"""Many deadlines at the cost of one task: for the connections of an opened layer."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from linkerd_proxy.core.background import open_background
from linkerd_proxy.core.waiter import Waiter

__all__ = ["Deadline", "Deadlines", "open_deadlines"]

_SWEEP = 1.0  # own figure: HTTP's shortest deadline is 2 s, and 10,000 entries cost 0.4 ms a sweep


class Deadline:
    """One deadline that is moved by assignment: ``entry.deadline = trio.current_time() + 10``.

    Args:
        callback: Called once the deadline has passed, at most a second late. It must neither block nor raise, and
            typically cancels a scope. The deadline is infinite again when it is called.

    A cancel scope with a deadline costs 2 us each time; this costs an attribute write.
    """

    __slots__ = ("callback", "deadline")

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] = callback
        self.deadline: float = math.inf

    def __repr__(self) -> str:
        return f"<Deadline at {self.deadline:g}>"


class Deadlines:
    """The deadlines of one opened layer. Made by :func:`open_deadlines`."""

    __slots__ = ("_entries", "_sleeper")

    def __init__(self) -> None:
        self._entries: set[Deadline] = set()
        self._sleeper = Waiter()

    def add(self, callback: Callable[[], None]) -> Deadline:
        """Return a new entry, which never fires until its ``deadline`` is set."""
        entry = Deadline(callback)
        self._entries.add(entry)
        self._sleeper.wake()
        return entry

    def remove(self, entry: Deadline) -> None:
        """Forget an entry; one that is gone already is no error."""
        self._entries.discard(entry)

    def __len__(self) -> int:
        return len(self._entries)

    def sweep(self) -> None:
        """Call back every entry whose deadline has passed."""
        now = trio.current_time()
        due = [entry for entry in self._entries if entry.deadline <= now]
        for entry in due:
            if entry.deadline <= now:  # an earlier callback may have moved it
                entry.deadline = math.inf
                entry.callback()

    async def run(self) -> None:
        """Sweep once a second while there are entries, for ever."""
        while True:
            if self._entries:
                await trio.sleep(_SWEEP)
                self.sweep()
            else:
                await self._sleeper.wait()

    def __repr__(self) -> str:
        return f"<Deadlines with {len(self._entries)} entries>"


@asynccontextmanager
async def open_deadlines() -> AsyncIterator[Deadlines]:
    """Yield a set of deadlines that is swept until the end of the block."""
    deadlines = Deadlines()
    async with open_background() as nursery:
        nursery.start_soon(deadlines.run)
        yield deadlines
