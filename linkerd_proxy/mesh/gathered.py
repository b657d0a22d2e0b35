"""What several workers stream at once, as one stream: their live traffic, and their logs."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import asdict, replace
from typing import Any, ClassVar

import trio

from linkerd_proxy.mesh.log_stream import LogStream
from linkerd_proxy.mesh.tap_stream import TapWish
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.metrics.tap_events import (
    ConnectionClosed,
    ConnectionOpened,
    RequestBegun,
    ResponseEnded,
    TapEvent,
    unpacked,
)
from linkerd_proxy.metrics.taps import BUFFER

__all__ = ["GatheredLog", "GatheredTap"]

_MAX_KNOWN = 100_000  # exchanges whose end is waited for; more are those whose end was dropped


class GatheredTap:
    """One tap on all workers, whose limit counts what all of them show.

    Each worker takes as much as the limit allows, and what is beyond it is left out here: nothing has to be agreed on
    while requests are on their way. Events get numbers of their own, and the label ``worker``.

    Args:
        wish: What is looked at.
    """

    what: ClassVar[str] = "tap"

    def __init__(self, wish: TapWish) -> None:
        self._wish = wish
        self.left: int = wish.limit
        """How many more exchanges and connections it takes."""
        self.dropped: int = 0
        """How many events were dropped, by workers or here."""
        self._told = 0
        self._numbers = itertools.count(1)
        self._known: dict[tuple[int, int], int] = {}
        self._doubtful: set[tuple[int, int]] = set()
        self._events: deque[TapEvent] = deque()
        self._arrived = trio.Event()
        self._drops = current_registry().counter(
            "tap_events_dropped_total", "Events that a tap's reader was too slow for"
        )

    @property
    def wish(self) -> Any:
        """The wish for each worker."""
        return asdict(self._wish)

    def take(self, worker: int, items: list[Any], dropped: int) -> None:
        """Take a worker's events."""
        self.dropped += dropped
        for item in items:
            event = unpacked(item)
            number = self._number(worker, event)
            if number is None:
                continue
            if isinstance(event, RequestBegun | ConnectionOpened):
                event = replace(event, labels=(*event.labels, ("worker", str(worker))))
            self._push(replace(event, id=number))
        if dropped:  # an end may be among them: these are not waited for
            self._doubtful.update(key for key in self._known if key[0] == worker)
        self._arrived.set()

    def _number(self, worker: int, event: TapEvent) -> int | None:
        """Return the number of what an event tells of, or None if that is beyond the limit."""
        key = worker, event.id
        if isinstance(event, ResponseEnded | ConnectionClosed):
            return self._forget(key)
        if not isinstance(event, RequestBegun | ConnectionOpened):
            return self._known.get(key)
        if self.left <= 0:
            return None
        self.left -= 1
        if len(self._known) >= _MAX_KNOWN:
            self._forget(next(iter(self._known)))
        number = self._known[key] = next(self._numbers)
        return number

    def _forget(self, key: tuple[int, int]) -> int | None:
        self._doubtful.discard(key)
        return self._known.pop(key, None)

    def _push(self, event: TapEvent) -> None:
        if len(self._events) >= BUFFER:
            self.dropped += 1
            self._drops.value += 1
        else:
            self._events.append(event)

    def leave(self, worker: int) -> None:
        """Expect no end of what a worker served."""
        for key in [key for key in self._known if key[0] == worker]:
            self._forget(key)
        self._arrived.set()

    async def next_batch(self, silence: float) -> tuple[list[TapEvent], int] | None:
        """Return events and how many were dropped since the last ones, or None: no more will come.

        Cancelled, it has taken none.

        Args:
            silence: Seconds without events after which a batch without any is returned.
        """
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(silence):
            while not self._events and not self._over:
                self._arrived = trio.Event()
                await self._arrived.wait()
        events = list(self._events)
        self._events.clear()
        lost, self._told = self.dropped - self._told, self.dropped
        return None if self._over and not events and not lost else (events, lost)

    @property
    def _over(self) -> bool:
        return self.left <= 0 and len(self._known) == len(self._doubtful)

    def __repr__(self) -> str:
        return f"<GatheredTap of {self._wish}, {len(self._events)} events wait, {self.dropped} dropped>"


class GatheredLog:
    """The log of all workers, beside this process's own in the same stream.

    Args:
        stream: Where the lines go.
        text: Which lines, as directives.
    """

    what: ClassVar[str] = "log"

    def __init__(self, stream: LogStream, text: str) -> None:
        self._stream = stream
        self._text = text

    @property
    def wish(self) -> Any:
        """The directives."""
        return self._text

    def take(self, worker: int, items: list[Any], dropped: int) -> None:
        """Take a worker's lines, each with its number in it."""
        for line in items:
            self._stream.push(line)
        if dropped:
            self._stream.lose(dropped)

    def leave(self, worker: int) -> None:
        """Expect no more lines: nobody waits for a last one."""
