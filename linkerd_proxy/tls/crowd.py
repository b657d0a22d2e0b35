"""A bound on the handshakes under way that no attacker can turn against good clients."""

from __future__ import annotations

import trio

__all__ = ["Crowd"]

_PATIENCE = 1.0  # own figure: seconds that a handshake may take even if others press
_HARD = 10  # times the bound: then the oldest gives way whatever its age


class Crowd:
    """Lets handshakes begin at once, always, and ends the oldest where they are too many.

    A handshake that is left half open costs memory, not time; whoever has it waits for its peer. So newcomers never
    wait: above ``limit``, those older than a second give way, oldest first, and above ten times ``limit`` the oldest
    gives way at once. A good client needs two round trips, so that those who are cut short are those who stall.

    Args:
        limit: How many may be under way without anybody giving way.
    """

    __slots__ = ("_limit", "_under_way")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._under_way: dict[trio.CancelScope, float] = {}  # in the order in which they began

    def join(self, scope: trio.CancelScope, now: float) -> None:
        """Count a handshake as under way.

        Args:
            scope: What it runs in, and what is cancelled if it has to give way.
            now: Trio's time.
        """
        self._make_room(now)
        self._under_way[scope] = now

    def leave(self, scope: trio.CancelScope) -> bool:
        """Count it no longer, and say whether it was still welcome: False if it was ended in favour of others."""
        return self._under_way.pop(scope, None) is not None

    def _make_room(self, now: float) -> None:
        under_way = self._under_way
        while len(under_way) >= self._limit:
            oldest = next(iter(under_way))
            if len(under_way) < self._limit * _HARD and now - under_way[oldest] < _PATIENCE:
                return
            del under_way[oldest]
            oldest.cancel()

    def __len__(self) -> int:
        return len(self._under_way)

    def __repr__(self) -> str:
        return f"<Crowd of {len(self)} handshakes, {self._limit} are welcome>"
