"""The upper bounds of classic buckets, for those who do not read exponential ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["LATENCY_BOUNDS_MS", "Bounds"]

LATENCY_BOUNDS_MS = tuple(float(step * scale) for scale in (1, 10, 100, 1000, 10_000) for step in range(1, 6))
"""The upper bounds of classic latency buckets, in milliseconds (linkerd2-proxy, linkerd/metrics/src/latency.rs)."""

_BY_UNIT: Mapping[str, Sequence[float]] = {
    "ms": LATENCY_BOUNDS_MS,
    "seconds": tuple(bound / 1000 for bound in LATENCY_BOUNDS_MS),
    "bytes": tuple(float(1 << power) for power in range(7, 31, 3)),
}
_OTHER = tuple(10.0**power for power in range(-3, 7))
_NONE: Mapping[str, Sequence[float]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Bounds:
    """Which classic buckets a histogram is shown in. It is recorded in exponential ones whatever these are.

    Args:
        by_family: Ascending bounds for families, by their names. For others the unit decides that ends the name:
            Linkerd's 25 for ``_ms`` and ``_seconds``, powers of two for ``_bytes``.

    Raises:
        InvalidConfiguration: if some do not ascend, or there are none.
    """

    by_family: Mapping[str, Sequence[float]] = field(default_factory=lambda: _NONE, hash=False)

    def __post_init__(self) -> None:
        for name, bounds in self.by_family.items():
            if not bounds or list(bounds) != sorted(set(bounds)):
                raise InvalidConfiguration(f"the bounds of {name} are {list(bounds)}: give ascending numbers")

    def of(self, family: str) -> Sequence[float]:
        """Return the bounds for a family."""
        return self.by_family.get(family) or _BY_UNIT.get(family.rpartition("_")[2], _OTHER)
