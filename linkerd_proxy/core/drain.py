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

    __slots__ = ("_callbacks", "_event", "draining", "grace", "patient")

    def __init__(self, grace: float = 120.0) -> None:
        self.grace: float = grace
        self.draining: bool = False
        """Whether the switch was turned. Cheap to read: HTTP/1 reads it before each response."""
        self.patient: bool = False
        """Whether clients that wait between two requests may ask once more, and then hear that it was the last time."""
        self._event = trio.Event()
        self._callbacks: dict[object, tuple[Callable[[], None], bool]] = {}

    def start(self, *, patient: bool = False) -> None:
        """Turn the switch. A second call changes nothing, but that it ends the patience of a first one.

        Args:
            patient: Close no connection that waits for a request: HTTP/1 says "close" with its next answer, HTTP/2
                says GOAWAY. So no request is lost that was on its way. For what goes on serving under other rules.
        """
        if self.draining and (patient or not self.patient):
            return
        self.draining = True
        self.patient = patient
        self._event.set()
        for callback, early in list(self._callbacks.values()):
            if early or not patient:
                callback()

    async def wait(self) -> None:
        """Wait until the switch is turned."""
        await self._event.wait()

    @contextmanager
    def calling(self, callback: Callable[[], None], *, early: bool = False) -> Iterator[None]:
        """Call ``callback`` when the switch is turned, if that happens inside the block (at once if it was before).

        For work that sleeps: an idle connection ends itself, an HTTP/2 connection says GOAWAY. The callback must
        neither block nor raise.

        Args:
            callback: What to call.
            early: Whether it also hears a patient start, and so is called a second time when the patience ends.
        """
        key = object()
        self._callbacks[key] = (callback, early)
        try:
            if self.draining and (early or not self.patient):
                callback()
            yield
        finally:
            del self._callbacks[key]

    def __repr__(self) -> str:
        return f"<Drain {'draining' if self.draining else 'idle'}, grace {self.grace:g} s>"
