"""Drain: the one signal that says "finish what you have, take nothing new"."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

__all__ = ["Drain"]


class Drain:
    """A switch that is turned once, and that every connection can see.

    Args:
        grace: Seconds that connections get to finish after the switch was turned, before they are cancelled
            (Linkerd: 120).
    """

    __slots__ = ("_callbacks", "_event", "draining", "grace")

    def __init__(self, grace: float = 120.0) -> None:
        self.grace: float = grace
        self.draining: bool = False
        """Whether the switch was turned. Cheap to read: HTTP/1 reads it before each response."""
        self._event = trio.Event()
        self._callbacks: dict[object, Callable[[], None]] = {}

    def start(self) -> None:
        """Turn the switch. A second call changes nothing."""
        if self.draining:
            return
        self.draining = True
        self._event.set()
        for callback in list(self._callbacks.values()):
            callback()

    async def wait(self) -> None:
        """Wait until the switch is turned."""
        await self._event.wait()

    @contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call ``callback`` when the switch is turned, if that happens inside the block (at once if it was before).

        For work that sleeps: an idle connection ends itself, an HTTP/2 connection says GOAWAY. The callback must
        neither block nor raise.
        """
        key = object()
        self._callbacks[key] = callback
        try:
            if self.draining:
                callback()
            yield
        finally:
            del self._callbacks[key]

    def __repr__(self) -> str:
        return f"<Drain {'draining' if self.draining else 'idle'}, grace {self.grace:g} s>"
