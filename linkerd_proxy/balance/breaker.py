"""When an endpoint's answers are bad enough to keep work from it for a while."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["Accrual", "Breaker", "Outcome", "Reason"]

Outcome: TypeAlias = Literal["success", "failure", "limited"]
"""How a piece of work ended; ``limited``: turned away for want of capacity (429, RESOURCE_EXHAUSTED)."""
Reason: TypeAlias = Literal["consecutive", "success_rate", "connect"]

_BUCKETS = 10


@dataclass(frozen=True, slots=True)
class Breaker:
    """When to eject an endpoint for its answers, and how to take it back.

    After the backoff one piece of work is let through as a probe: if it succeeds the endpoint is back, otherwise it is
    out for twice as long. An endpoint that can't be reached is out in any case, see ``Balance``.

    Args:
        consecutive: Failures in a row (Linkerd: 7), or None for any number.
        success_rate: The least fraction of answers in ``window`` that must be no failure, or None for no such rule.
            (Linkerd's unified breaker: 0.8)
        window: Seconds that the rate is taken over, in ten steps (Linkerd: 10).
        min_requests: So many answers in the window before the rate means something (Linkerd: 5).
        backoff: How long it is out (Linkerd: 1 s to 60 s, jitter 0.5).
        floor: The least fraction of all endpoints that stays, however bad their answers: if all fail, failing answers
            are better than none. 0 lets the last one go too, as Linkerd does; own figure.

    Answers of 429 and RESOURCE_EXHAUSTED count against the rate, not as failures in a row, and fail a probe only where
    there is a rate.
    """

    consecutive: int | None = 7
    success_rate: float | None = None
    window: float = 10.0
    min_requests: int = 5
    backoff: Backoff = Backoff(1.0, 60.0, 0.5)  # noqa: RUF009  # frozen
    floor: float = 0.5

    def __post_init__(self) -> None:
        if self.consecutive is None and self.success_rate is None:
            raise InvalidConfiguration("Breaker() breaks on nothing: give consecutive or success_rate, or no breaker")
        if self.consecutive is not None and self.consecutive < 1:
            raise InvalidConfiguration(f"Breaker(consecutive={self.consecutive!r}): give 1 or more")
        if self.success_rate is not None and not 0 < self.success_rate <= 1:
            raise InvalidConfiguration(f"Breaker(success_rate={self.success_rate!r}): give a fraction up to 1")
        if not self.window >= 0.01:
            raise InvalidConfiguration(f"Breaker(window={self.window!r}): give at least 0.01 s")
        if not 1 <= self.min_requests <= 1_000_000:
            raise InvalidConfiguration(f"Breaker(min_requests={self.min_requests!r}): give 1 to 1,000,000")
        if not 0 <= self.floor <= 1:
            raise InvalidConfiguration(f"Breaker(floor={self.floor!r}): give a fraction from 0 to 1")


class Accrual:
    """What one endpoint's answers add up to. Sans I/O: it is told the time."""

    __slots__ = ("_bad", "_breaker", "_good", "_step", "_width", "in_a_row")

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._width = breaker.window / _BUCKETS
        self._step = 0
        self._good = [0] * _BUCKETS
        self._bad = [0] * _BUCKETS
        self.in_a_row: int = 0
        """Failures since the last success."""

    @property
    def cares(self) -> bool:
        """Whether one more success changes anything."""
        return self.in_a_row > 0 or self._breaker.success_rate is not None

    def add(self, outcome: Outcome, now: float) -> Reason | None:
        """Count an outcome, and return why the endpoint must go, or None."""
        breaker = self._breaker
        if outcome == "failure":
            self.in_a_row += 1
        elif outcome == "success":
            self.in_a_row = 0
        if breaker.success_rate is not None:
            self._turn(now)
            self._good[-1] += outcome == "success"
            self._bad[-1] += outcome != "success"
        if outcome == "success":
            return None
        if breaker.consecutive is not None and self.in_a_row >= breaker.consecutive:
            return "consecutive"
        if breaker.success_rate is not None:
            good, bad = sum(self._good), sum(self._bad)
            if good + bad >= breaker.min_requests and good < breaker.success_rate * (good + bad):
                return "success_rate"
        return None

    def passes(self, outcome: Outcome) -> bool:
        """Whether a probe with this outcome takes the endpoint back."""
        return outcome == "success" or (outcome == "limited" and self._breaker.success_rate is None)

    def clear(self) -> None:
        """Forget everything, as after a probe that passed."""
        self.in_a_row = 0
        self._good = [0] * _BUCKETS
        self._bad = [0] * _BUCKETS

    def _turn(self, now: float) -> None:
        """Drop the steps that lie more than a window back. Time never goes back: what is told late counts as of now."""
        step = max(self._step, int(now / self._width))
        passed = min(step - self._step, _BUCKETS)
        self._step = step
        for counts in (self._good, self._bad):
            if passed > 0:
                del counts[:passed]
                counts += [0] * passed

    @property
    def seen(self) -> tuple[int, int]:
        """Successes and others in the window, as of the last answer."""
        return sum(self._good), sum(self._bad)

    def __repr__(self) -> str:
        good, bad = self.seen
        return f"<Accrual {self.in_a_row} failures in a row, {bad} of {good + bad} bad in the window>"
