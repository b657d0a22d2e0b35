"""Keep work in its own zone as long as that costs little."""

from __future__ import annotations

from typing import Generic

from typing_extensions import TypeVar

from linkerd_proxy.balance.picks import Picker
from linkerd_proxy.balance.replica import Replica

__all__ = ["Zoned"]

A = TypeVar("A")


class Zoned(Generic[A]):
    """Two pickers: endpoints of the own zone come first, unless one elsewhere is much less loaded, or none is ready.

    Args:
        near: Picks among those in the own zone.
        far: Picks among the others.
        spill: How many times the load of one elsewhere the own zone's may be.
    """

    __slots__ = ("_far", "_near", "_spill")

    def __init__(self, near: Picker[A], far: Picker[A], spill: float) -> None:
        self._near = near
        self._far = far
        self._spill = spill

    def _side(self, replica: Replica[A]) -> Picker[A]:
        return self._near if replica.near else self._far

    def enrol(self, replica: Replica[A]) -> None:
        """Take in an endpoint that came."""
        self._side(replica).enrol(replica)

    def dismiss(self, replica: Replica[A]) -> None:
        """Forget an endpoint that went."""
        self._side(replica).dismiss(replica)

    def add(self, replica: Replica[A]) -> None:
        """Take in an endpoint that became ready."""
        self._side(replica).add(replica)

    def discard(self, replica: Replica[A]) -> None:
        """Leave out an endpoint that is ready no more."""
        self._side(replica).discard(replica)

    def pick(self, work: A, now: float) -> Replica[A] | None:
        """Return the endpoint for a piece of work."""
        near = self._near.pick(work, now)
        far = self._far.pick(work, now)
        if near is None or far is None:
            return near or far
        return far if near.load(now) > self._spill * far.load(now) else near
