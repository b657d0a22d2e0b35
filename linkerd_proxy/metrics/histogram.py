"""A histogram whose resolution adapts: base-2 exponential buckets that merge exactly.

Bucket ``i`` at schema ``s`` holds the values in ``(base**i, base**(i+1)]`` with ``base = 2**(2**-s)``; going one
schema down joins buckets in pairs. Those are the buckets of OpenTelemetry's exponential histograms and of
Prometheus' native ones, so histograms of different schemas merge without error.
"""

from __future__ import annotations

import math

__all__ = ["Histogram"]

_LOG2E = 1 / math.log(2)


class Histogram:
    """Counts of positive values in exponential buckets; zero and less are counted apart.

    Args:
        schema: The finest resolution, from -4 to 8; 3 gives buckets 9 % wide, so quantiles within 4.5 %.
        max_buckets: When more would be in use, the schema goes down by one and buckets join in pairs.
    """

    __slots__ = ("_scale", "buckets", "count", "max_buckets", "schema", "total", "zeros")

    def __init__(self, schema: int = 3, max_buckets: int = 160) -> None:
        self.schema = schema
        self.max_buckets = max_buckets
        self.buckets: dict[int, int] = {}
        self.zeros = 0
        self.count = 0
        self.total = 0.0
        self._scale = 2.0**schema * _LOG2E

    def record(self, value: float) -> None:
        """Count one value."""
        self.count += 1
        self.total += value
        if value <= 0:
            self.zeros += 1
            return
        index = math.ceil(math.log(value) * self._scale) - 1
        buckets = self.buckets
        if index in buckets:
            buckets[index] += 1
        else:
            buckets[index] = 1
            if len(buckets) > self.max_buckets:
                self._coarsen()

    def _coarsen(self) -> None:
        while len(self.buckets) > self.max_buckets and self.schema > -4:
            self._reduce_to(self.schema - 1)

    def _reduce_to(self, schema: int) -> None:
        shift = self.schema - schema
        joined: dict[int, int] = {}
        for index, count in self.buckets.items():
            joined[index >> shift] = joined.get(index >> shift, 0) + count
        self.buckets = joined
        self.schema = schema
        self._scale = 2.0**schema * _LOG2E

    def merge(self, other: Histogram) -> None:
        """Add what another one counted, at the coarser of the two schemas."""
        if other.schema < self.schema:
            self._reduce_to(other.schema)
        shift = other.schema - self.schema
        for index, count in other.buckets.items():
            self.buckets[index >> shift] = self.buckets.get(index >> shift, 0) + count
        self.zeros += other.zeros
        self.count += other.count
        self.total += other.total
        self._coarsen()

    def quantile(self, q: float) -> float:
        """Return the value below which a share ``q`` of the values lie; NaN if there are none.

        Interpolates inside the bucket, so the error is at most the bucket's width.
        """
        if not self.count:
            return math.nan
        rank = q * self.count
        below = float(self.zeros)
        if rank <= below:
            return 0.0
        base = 2.0 ** (2.0**-self.schema)
        upper = 0.0
        for index in sorted(self.buckets):
            inside = self.buckets[index]
            upper = base ** (index + 1)
            if below + inside >= rank:
                return float(base ** (index + (rank - below) / inside))
            below += inside
        return upper

    def __repr__(self) -> str:
        return f"<Histogram of {self.count} values, schema {self.schema}, {len(self.buckets)} buckets>"
