"""How long to wait before the next try: longer after each failure, and not in step with others."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["Backoff"]

_DOUBLINGS = 60  # 2.0**60 seconds is for ever, and no float overflows


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from ``minimum`` to ``maximum``, each lengthened by a random share of itself.

    Args:
        minimum: Seconds before the first retry, without the jitter.
        maximum: Seconds that no wait exceeds, without the jitter.
        jitter: The largest share that is added: of 1.0, a wait is between one and two times its length.

    Source: linkerd2-proxy, linkerd/exp-backoff.
    """

    minimum: float
    maximum: float
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum < math.inf:
            raise InvalidConfiguration(f"{self!r}: minimum is not negative, and not more than maximum")
        if not 0 <= self.jitter <= 100:
            raise InvalidConfiguration(f"{self!r}: jitter is from 0 (none) to 100 times the wait")

    def seconds(self, failures: int, dice: random.Random) -> float:
        """Return how long to wait after so many failures in a row, the first being 1."""
        wait = min(self.maximum, self.minimum * 2.0 ** min(max(failures - 1, 0), _DOUBLINGS))
        return wait * (1 + self.jitter * dice.random()) if self.jitter else wait
