"""The taps that are open in a Trio run: who looks, at what, and what they have not fetched yet."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from linkerd_proxy.errors import InvalidConfiguration, Overloaded
from linkerd_proxy.metrics.registry import Counter, current_registry
from linkerd_proxy.metrics.tap_events import ConnectionClosed, ResponseEnded, TapEvent
from linkerd_proxy.metrics.tap_match import Wanted

__all__ = ["BUFFER", "MAX_TAPS", "OpenTap", "Taps", "current_taps"]

BUFFER = 400
"""Events that wait for a slow reader (Linkerd's figure); what comes beyond is dropped and counted."""
MAX_TAPS = 16
"""Taps at once (own figure): each looks at every request."""


class OpenTap:
    """One open tap. Made by :meth:`Taps.open`."""

    __slots__ = ("_arrived", "_chance", "_drops", "_events", "_told", "_unfinished", "dropped", "headers", "left",
                 "match", "sample")  # fmt: skip

    def __init__(
        self, match: Wanted, limit: int, sample: float, headers: bool, chance: random.Random, drops: Counter
    ) -> None:
        self.match: Wanted = match
        self.left: int = limit
        """How many more exchanges and connections it takes."""
        self.sample: float = sample
        self.headers: bool = headers
        self.dropped: int = 0
        """How many events were dropped because nobody fetched them in time."""
        self._chance = chance
        self._drops = drops
        self._told = 0
        self._events: deque[TapEvent] = deque()
        self._unfinished = 0
        self._arrived = trio.Event()

    def takes(self) -> bool:
        """Whether it takes one more that matches: chosen by chance, and within its limit."""
        if self.left <= 0 or (self.sample < 1 and self._chance.random() >= self.sample):
            return False
        self.left -= 1
        self._unfinished += 1
        return True

    def push(self, event: TapEvent) -> None:
        """Put an event where the reader finds it. Never waits: a request is not to be late for being looked at."""
        if isinstance(event, ResponseEnded | ConnectionClosed):
            self._unfinished -= 1  # dropped or not: nothing more of it comes
        if len(self._events) >= BUFFER:
            self.dropped += 1
            self._drops.value += 1
            return
        self._events.append(event)
        self._arrived.set()

    async def receive(self) -> list[TapEvent]:
        """Wait until there are events, and return all that there are. Cancelled, it has taken none."""
        await trio.lowlevel.checkpoint()
        while not self._events:
            self._arrived = trio.Event()
            await self._arrived.wait()
        events = list(self._events)
        self._events.clear()
        return events

    async def next_batch(self, silence: float) -> tuple[list[TapEvent], int] | None:
        """Return the events that there are and how many were dropped since the last ones, or None: no more will come.

        Cancelled, it has taken none.

        Args:
            silence: Seconds without events after which a batch without any is returned.
        """
        if self.left <= 0 and not self._unfinished and not self._events:
            return None
        events: list[TapEvent] = []
        with trio.move_on_after(silence):
            events = await self.receive()
        lost, self._told = self.dropped - self._told, self.dropped
        return events, lost

    def __repr__(self) -> str:
        return f"<OpenTap of {self.match}, {len(self._events)} events wait, {self.dropped} dropped>"


class Taps:
    """All open taps of a run. Get them by :func:`current_taps`."""

    __slots__ = ("_drops", "_ids", "_opened", "active")

    def __init__(self) -> None:
        registry = current_registry()
        self.active: list[OpenTap] = []
        """Empty nearly always, which is what a layer asks first."""
        self._ids = itertools.count(1)
        self._opened = registry.counter("tap_opened_total", "Taps opened")
        self._drops = registry.counter("tap_events_dropped_total", "Events that a tap's reader was too slow for")

    def next_id(self) -> int:
        """Return a number that no event of this run has had."""
        return next(self._ids)

    @contextmanager
    def open(
        self,
        match: Wanted,
        *,
        limit: int = 1_000_000,
        sample: float = 1.0,
        headers: bool = False,
        chance: random.Random | None = None,
    ) -> Iterator[OpenTap]:
        """Look at what matches, until the end of the block.

        Args:
            match: What to look at.
            limit: How many exchanges and connections at most.
            sample: The share of those that match, above 0 and up to 1.
            headers: Whether events have the header fields, less those with credentials.
            chance: What chooses the sample.

        Raises:
            InvalidConfiguration: for a limit or a sample that shows nothing.
            Overloaded: if :data:`MAX_TAPS` are open.
        """
        if limit < 1:
            raise InvalidConfiguration(f"a tap's limit is {limit}: give at least 1")
        if not 0 < sample <= 1:
            raise InvalidConfiguration(f"a tap's sample is {sample:g}: give a share above 0 and up to 1")
        if len(self.active) >= MAX_TAPS:
            raise Overloaded(f"{MAX_TAPS} taps are open already", layer="Tap", remedy="end one of them")
        tap = OpenTap(match, limit, sample, headers, chance or random.Random(), self._drops)
        self._opened.value += 1
        self.active.append(tap)
        try:
            yield tap
        finally:
            self.active.remove(tap)

    def __repr__(self) -> str:
        return f"<Taps: {len(self.active)} open>"


_taps: trio.lowlevel.RunVar[Taps] = trio.lowlevel.RunVar("linkerd_proxy.taps")


def current_taps() -> Taps:
    """Return the taps of this Trio run."""
    try:
        return _taps.get()
    except LookupError:
        taps = Taps()
        _taps.set(taps)
        return taps
