"""Ways to pick an endpoint out of those that are ready."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate
from math import floor
from random import Random
from typing import Any, Generic, Protocol

from typing_extensions import TypeVar

from linkerd_proxy.balance.replica import Replica
from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["LeastRequest", "P2c", "Pick", "Picker", "Ready", "RoundRobin"]

A = TypeVar("A")


class Picker(Protocol[A]):
    """The live side of a pick: it hears which endpoints there are and which are ready, and picks among the latter."""

    def enrol(self, replica: Replica[A]) -> None:
        """Take in an endpoint that came, ready or not."""

    def dismiss(self, replica: Replica[A]) -> None:
        """Forget an endpoint that went."""

    def add(self, replica: Replica[A]) -> None:
        """Take in an endpoint that became ready."""

    def discard(self, replica: Replica[A]) -> None:
        """Leave out an endpoint that is ready no more."""

    def pick(self, work: A, now: float) -> Replica[A] | None:
        """Return the endpoint for a piece of work, or None if none is ready."""
        ...


class Pick(Protocol):
    """A way to pick, as a value: ``P2c()``, ``LeastRequest()``, ``RoundRobin()``, ``Ring(...)``."""

    def picker(self, dice: Random) -> Picker[Any]:
        """Return a live picker that throws these dice."""
        ...


class Ready(Generic[A]):
    """The ready endpoints, with two of them drawn at random in constant time, whatever comes and goes."""

    __slots__ = ("_cumulative", "_dice", "_kinds", "members")

    def __init__(self, dice: Random) -> None:
        self._dice = dice.random
        self.members: list[Replica[A]] = []
        self._kinds: dict[float, int] = {}
        self._cumulative: list[float] = []

    def enrol(self, replica: Replica[A]) -> None:
        """Nothing to do: only ready ones count."""

    def dismiss(self, replica: Replica[A]) -> None:
        """Nothing to do: it was discarded when it was no longer ready."""

    def add(self, replica: Replica[A]) -> None:
        """Take in one that became ready."""
        replica.slot = len(self.members)
        self.members.append(replica)
        self._kinds[replica.weight] = self._kinds.get(replica.weight, 0) + 1
        self._cumulative = []

    def discard(self, replica: Replica[A]) -> None:
        """Leave one out. The last one takes its place, so that this costs the same for any number."""
        last = self.members.pop()
        if last is not replica:
            self.members[replica.slot] = last
            last.slot = replica.slot
        replica.slot = -1
        self._kinds[replica.weight] -= 1
        if not self._kinds[replica.weight]:
            del self._kinds[replica.weight]
        self._cumulative = []

    def two(self) -> tuple[Replica[A], Replica[A]]:
        """Draw two; there must be one at least. They differ if there is a choice and all weigh the same."""
        if len(self._kinds) > 1:
            return self._weighted(), self._weighted()
        members = self.members
        count = len(members)
        dice = self._dice
        if count == 1:
            return members[0], members[0]
        first = floor(dice() * count)  # not int(), which takes four times as long
        second = floor(dice() * (count - 1))
        return members[first], members[second + 1 if second >= first else second]

    def _weighted(self) -> Replica[A]:
        # With replacement: of two endpoints, two different ones would always be both, whatever they weigh.
        if not self._cumulative:
            self._cumulative = list(accumulate(replica.weight for replica in self.members))
        at = bisect_right(self._cumulative, self._dice() * self._cumulative[-1])
        return self.members[min(at, len(self.members) - 1)]


@dataclass(frozen=True, slots=True)
class P2c:
    """The less loaded of two at random, load being the peak-EWMA latency times the work that waits for an answer.

    A slow answer weighs at once, and fades over ``decay``. A failed one, which may be quick, counts as a slow one in
    the average: an endpoint that fails one request in a hundred keeps most of its share, one that fails half of them
    keeps next to none. (Linkerd; "The Power of Two Choices in Randomized Load Balancing", Mitzenmacher 2001)

    Args:
        default_rtt: Seconds that an endpoint is thought to take before it has answered (Linkerd: 0.03).
        decay: Seconds after which what was measured weighs 1/e (Linkerd: 10).
        penalty: Seconds that a failed answer counts as having taken, at least (own figure). 0 measures failures as they
            are, as Linkerd does unless told otherwise.
        peak: Whether a failure weighs at once and in full. ``P2c(penalty=5, peak=True)`` is Linkerd's penalty EWMA:
            one failure keeps nearly all work away for half a minute. What ``retry-after`` asks for always does.
    """

    default_rtt: float = 0.03
    decay: float = 10.0
    penalty: float = 2.0
    peak: bool = False

    def __post_init__(self) -> None:
        if not self.default_rtt > 0 or not self.decay >= 0 or not self.penalty >= 0:
            raise InvalidConfiguration(f"{self!r} measures nothing: give seconds from 0, and a default_rtt above")

    def picker(self, dice: Random) -> Picker[Any]:
        """Return a live picker."""
        return _P2c(dice)


class _P2c(Ready[A]):
    __slots__ = ()

    def pick(self, work: A, now: float) -> Replica[A] | None:
        """Return the less loaded of two."""
        members = self.members
        if len(members) < 2:
            return members[0] if members else None
        one, other = self.two()
        return one if one.load(now) <= other.load(now) else other


@dataclass(frozen=True, slots=True)
class LeastRequest:
    """The one with less work in flight, of a few at random, as Envoy's ``LEAST_REQUEST``.

    Args:
        choices: How many are drawn, from 2 (Envoy: 2).
    """

    choices: int = 2

    def __post_init__(self) -> None:
        if self.choices < 2:
            raise InvalidConfiguration(f"LeastRequest(choices={self.choices!r}) is no choice: give 2 or more")

    def picker(self, dice: Random) -> Picker[Any]:
        """Return a live picker."""
        return _LeastRequest(dice, self.choices)


class _LeastRequest(Ready[A]):
    __slots__ = ("_choices",)

    def __init__(self, dice: Random, choices: int) -> None:
        super().__init__(dice)
        self._choices = choices

    def pick(self, work: A, now: float) -> Replica[A] | None:
        """Return the least busy of those drawn."""
        if len(self.members) < 2:
            return self.members[0] if self.members else None
        best, other = self.two()
        for drawn in range(1, self._choices):
            if drawn > 1:
                other = self.two()[0]
            if other.active / other.weight < best.active / best.weight:
                best = other
        return best


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """One after the other, each as often as its weight says, whatever they take."""

    def picker(self, dice: Random) -> Picker[Any]:
        """Return a live picker."""
        return _RoundRobin(dice)


class _RoundRobin(Ready[A]):
    """Earliest deadline first: one that was picked is due again after 1/weight."""

    __slots__ = ("_due", "_number", "_queue")

    def __init__(self, dice: Random) -> None:
        super().__init__(dice)
        self._queue: list[tuple[float, int, Replica[A]]] = []
        self._due = 0.0
        self._number = 0

    def add(self, replica: Replica[A]) -> None:
        """Take in one that became ready: it is due within one round."""
        super().add(replica)
        # At random, so that those that come at once don't move in step with those of other proxies.
        self._push(self._due + self._dice() / replica.weight, replica)

    def discard(self, replica: Replica[A]) -> None:
        """Leave one out, and never queue it twice when it comes back."""
        super().discard(replica)
        if len(self._queue) > 2 * len(self.members) + 64:  # those that went are dropped late: not too late
            self._queue = sorted(entry for entry in self._queue if entry[2].slot >= 0 and entry[2].turn == entry[1])

    def pick(self, work: A, now: float) -> Replica[A] | None:
        """Return the one that is due first."""
        while self._queue:
            self._due, number, replica = heappop(self._queue)
            if replica.slot >= 0 and replica.turn == number:
                self._push(self._due + 1 / replica.weight, replica)
                return replica
        return None

    def _push(self, due: float, replica: Replica[A]) -> None:
        self._number += 1
        replica.turn = self._number
        heappush(self._queue, (due, self._number, replica))
