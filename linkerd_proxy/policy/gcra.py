"""GCRA: a rate limit that is one number, the time at which its bucket will be empty again."""

from __future__ import annotations

from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["Gcra"]

_ROUNDING = 1e-9  # seconds: less than that is floating point, not somebody who comes too early


class Gcra:
    """The generic cell rate algorithm (ITU-T I.371, annex A): ``rate`` a second, with bursts of some pieces.

    In every stretch of ``t`` seconds it lets at most ``burst + rate * t`` pass.

    Args:
        rate: Pieces a second.
        burst: Pieces that may come at once, at least 1.
    """

    __slots__ = ("empty_at", "interval", "tolerance")

    def __init__(self, rate: float, burst: float) -> None:
        if not rate > 0:
            raise InvalidConfiguration(f"a rate of {rate!r} lets nothing pass: give more than 0 a second")
        self.interval: float = 1 / rate
        self.tolerance: float = (max(burst, 1) - 1) * self.interval
        self.empty_at: float = float("-inf")
        """When all that has passed is worked off ("theoretical arrival time"): from then on it is like new."""

    def wait(self, now: float) -> float:
        """Return the seconds after which one more may pass; 0 if it may now."""
        wait = self.empty_at - self.tolerance - now
        return wait if wait > _ROUNDING else 0.0

    def take(self, now: float) -> None:
        """Let one pass."""
        self.empty_at = max(self.empty_at, now) + self.interval

    def __repr__(self) -> str:
        return f"<Gcra {1 / self.interval:g} a second, empty at {self.empty_at:g}>"
