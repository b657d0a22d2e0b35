"""Peak EWMA: a latency estimate that believes bad news at once and good news slowly.

As in Finagle's ``loadBalancerPeakEwma`` and Linkerd: load is the estimate times the work in flight. The estimate also
fades while nothing is measured, so that an endpoint that was slow once is tried again some time.
"""

from __future__ import annotations

from math import exp

__all__ = ["PeakEwma"]


class PeakEwma:
    """The latency estimate of one endpoint, in seconds.

    Args:
        default: What is assumed before anything was measured.
        decay: Seconds after which an old value weighs 1/e. 0 forgets at once.
        now: The present time.
    """

    __slots__ = ("at", "rate", "rtt")

    def __init__(self, default: float, decay: float, now: float) -> None:
        self.rate: float = 1 / decay if decay > 0 else float("inf")
        """How fast it fades, per second."""
        self.rtt: float = default
        """The estimate as it was at the last measurement."""
        self.at: float = now

    def sample(self, rtt: float, now: float) -> None:
        """Take in a measurement. One from before the last one counts as simultaneous with it."""
        elapsed = now - self.at
        if elapsed > 0:
            kept = exp(-elapsed * self.rate)
            self.at = now
        else:
            kept = 1.0
        faded = self.rtt * kept
        self.rtt = rtt if rtt > faded else faded + rtt * (1 - kept)

    def blend(self, rtt: float, now: float) -> None:
        """Take in a measurement as an average does, in the share of its time, however large it is."""
        kept = exp(-max(0.0, now - self.at) * self.rate)
        self.at = max(self.at, now)
        self.rtt = self.rtt * kept + rtt * (1 - kept)

    def read(self, now: float) -> float:
        """Return the estimate, faded by the time since it was measured."""
        elapsed = now - self.at
        return self.rtt * exp(-elapsed * self.rate) if elapsed > 0 else self.rtt

    def reset(self, rtt: float, now: float) -> None:
        """Begin anew from a value."""
        self.rtt = rtt
        self.at = now

    def __repr__(self) -> str:
        return f"<PeakEwma {self.rtt * 1000:.3g} ms>"
