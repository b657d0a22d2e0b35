"""One length of time that many pieces of work may take, at the cost of one task."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import trio

from linkerd_proxy.core.background import open_background
from linkerd_proxy.core.clock import open_clock
from linkerd_proxy.core.kept_scope import KeptScope, Limit, kept_scope
from linkerd_proxy.core.waiter import Waiter

__all__ = ["Expiry", "Limited", "open_expiry"]


class Limited:
    """A block of code that has some time: what is inside is cancelled when it is up.

    It is used as ``trio.move_on_after()`` is, but ``trio.current_effective_deadline()`` does not tell of it. Made by
    :meth:`Expiry.limiting`, for one ``with``.
    """

    __slots__ = ("_expiry", "_kept", "_own", "cancelled_caught", "has_expired", "outer")

    def __init__(self, expiry: Expiry) -> None:
        self._expiry = expiry
        self.has_expired: bool = False
        """Whether the time was up before the block had ended."""
        self.cancelled_caught: bool = False
        """Whether that has cut the block short."""
        self.outer: Limit | None = None

    def __enter__(self) -> Self:
        kept = kept_scope()
        self._own = kept is None
        self._kept = KeptScope().__enter__() if kept is None else kept
        self._kept.enter(self)
        self._expiry.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._expiry.discard(self)
        kept = self._kept
        if not (self._own or self.has_expired):  # what leave() would do, for a call less: most end so
            kept.limit = self.outer
            return False
        try:
            self.cancelled_caught = caught = kept.leave(self, kind, error, traceback)
        finally:
            if self._own:
                kept.__exit__(kind, error, traceback)
        return caught

    def lift(self) -> None:
        """Let the rest of the block take any time."""
        self._expiry.discard(self)

    def expire(self, due: float) -> None:
        """End the block, as a deadline that has passed."""
        self.has_expired = True
        self._kept.expire(due)

    def __repr__(self) -> str:
        return f"<Limited to {self._expiry.seconds:g} s{', expired' if self.has_expired else ''}>"


class Expiry:
    """Lets blocks of code expire ``seconds`` after they were entered.

    Trio keeps the deadlines of scopes that have ended in a heap until they would have been due: under load each costs
    more than the scope itself. Here all have the same time, so that the first that came in is the first that is due.

    Args:
        seconds: How long; more than 0.
    """

    __slots__ = ("_blocks", "_clock", "_sleeper", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds: float = seconds
        self._clock = open_clock()
        self._blocks: dict[Limited, float] = {}
        self._sleeper = Waiter()

    def limiting(self) -> Limited:
        """Return a new block, to be entered with ``with``."""
        return Limited(self)

    def add(self, block: Limited) -> None:
        """Let the time of a block begin."""
        self._blocks[block] = self._clock() + self.seconds
        self._sleeper.wake()

    def discard(self, block: Limited) -> None:
        """Let a block be; one that is out already is no error."""
        self._blocks.pop(block, None)

    def __len__(self) -> int:
        return len(self._blocks)

    async def run(self) -> None:
        """Let expire what is due, for ever."""
        blocks = self._blocks
        while True:
            if not blocks:
                await self._sleeper.wait()
                continue  # what was put in may be out again
            block, due = next(iter(blocks.items()))
            if due > trio.current_time():
                await trio.sleep_until(due)
            if blocks.pop(block, None) is not None and due <= trio.current_time():
                block.expire(due)

    def __repr__(self) -> str:
        return f"<Expiry of {len(self._blocks)} blocks after {self.seconds:g} s>"


@asynccontextmanager
async def open_expiry(seconds: float) -> AsyncIterator[Expiry]:
    """Yield what lets blocks expire until the end of the block."""
    expiry = Expiry(seconds)
    async with open_background() as nursery:
        nursery.start_soon(expiry.run)
        yield expiry
