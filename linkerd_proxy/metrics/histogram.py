"""A histogram whose resolution adapts: base-2 exponential buckets that merge exactly.

Bucket ``i`` at schema ``s`` holds the values in ``(base**i, base**(i+1)]`` with ``base = 2**(2**-s)``; going one
schema down joins buckets in pairs. Those are the buckets of OpenTelemetry's exponential histograms and of
Prometheus' native ones, so histograms of different schemas merge without error.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MAX_SCHEMA", "MIN_SCHEMA", "Exemplar", "Histogram"]

MIN_SCHEMA = -4
"""The coarsest resolution: each bucket is 65,536 times as wide as the last."""
MAX_SCHEMA = 8
"""The finest resolution: each bucket is 0.27 % wide."""

_LARGEST = sys.float_info.max
_MAX_EXEMPLARS = 32  # own figure: an octave each, for latencies from a microsecond to an hour


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One recorded value with the trace that it belongs to.

    Args:
        value: The value.
        trace_id: The trace's id, in hexadecimal.
        timestamp: When, in seconds since the epoch.
    """

    value: float
    trace_id: str
    timestamp: float


class Histogram:
    """Counts of positive values in exponential buckets; zero and less are counted apart.

    Args:
        schema: The finest resolution, from -4 to 8; 3 gives buckets 9 % wide.
        max_buckets: When more would be in use, the schema goes down by one and buckets join in pairs. 256 at schema 3
            are 32 octaves: latencies from a microsecond to an hour never make it coarser.

    Values are put in their bucket exactly, by comparison with its bounds and not by a rounded logarithm. So the same
    values give the same buckets in whatever order, process or schema they were recorded and merged.
    """

    __slots__ = (
        "__weakref__",
        "_bounds",
        "_down",
        "_up",
        "buckets",
        "count",
        "exemplars",
        "max_buckets",
        "schema",
        "total",
        "zeros",
    )

    def __init__(self, schema: int = 3, max_buckets: int = 256) -> None:
        if not MIN_SCHEMA <= schema <= MAX_SCHEMA:
            raise ValueError(f"schema is {schema}: give one from {MIN_SCHEMA} to {MAX_SCHEMA}")
        if max_buckets < 1:
            raise ValueError(f"max_buckets is {max_buckets}: give at least 1")
        self.max_buckets: int = max_buckets
        self.buckets: dict[int, int] = {}
        self.zeros: int = 0
        self.count: int = 0
        self.total: float = 0.0
        self.exemplars: dict[int, Exemplar] = {}
        """The newest example of each octave, where some were given."""
        self._set_schema(schema)

    def _set_schema(self, schema: int) -> None:
        self.schema: int = schema
        self._bounds = _BOUNDS[max(schema, 0)]
        self._up = max(schema, 0)
        self._down = max(-schema, 0)

    def record(self, value: float) -> None:
        """Count one value.

        Raises:
            ValueError: for infinity and NaN, which would spoil the sum for ever; nothing is counted then.
        """
        if not 0 < value <= _LARGEST:
            if not -_LARGEST <= value <= 0:
                raise ValueError(f"a histogram can't hold {value}")
            self.zeros += 1
            self.count += 1
            self.total += value
            return
        self.count += 1
        self.total += value
        fraction, exponent = math.frexp(value)
        # frexp gives a fraction in [0.5, 1): the bounds cut that octave, each belonging to the bucket below it.
        index = (((exponent - 1) << self._up) + bisect_left(self._bounds, fraction) - 1) >> self._down
        buckets = self.buckets
        if index in buckets:
            buckets[index] += 1
        else:
            buckets[index] = 1
            if len(buckets) > self.max_buckets:
                self._coarsen()

    def exemplify(self, exemplar: Exemplar) -> None:
        """Keep an example for a value that was recorded: the last one of its octave stays."""
        octave = math.frexp(exemplar.value)[1]
        if octave in self.exemplars or len(self.exemplars) < _MAX_EXEMPLARS:
            self.exemplars[octave] = exemplar

    def _coarsen(self) -> None:
        while len(self.buckets) > self.max_buckets and self.schema > MIN_SCHEMA:
            self._reduce_to(self.schema - 1)

    def _reduce_to(self, schema: int) -> None:
        shift = self.schema - schema
        joined: dict[int, int] = {}
        for index, count in self.buckets.items():
            joined[index >> shift] = joined.get(index >> shift, 0) + count
        self.buckets = joined
        self._set_schema(schema)

    def merge(self, other: Histogram) -> None:
        """Add what another one counted, at the coarser of the two schemas.

        The counts are exact, and histograms of one ``max_buckets`` may be merged in any order and grouping.
        """
        if other.schema < self.schema:
            self._reduce_to(other.schema)
        shift = other.schema - self.schema
        for index, count in list(other.buckets.items()):
            self.buckets[index >> shift] = self.buckets.get(index >> shift, 0) + count
        self.zeros += other.zeros
        self.count += other.count
        self.total += other.total
        for octave, exemplar in other.exemplars.items():
            mine = self.exemplars.get(octave)
            if mine is None or mine.timestamp < exemplar.timestamp:
                self.exemplify(exemplar)
        self._coarsen()

    def since(self, earlier: Histogram) -> Histogram:
        """Return what was recorded after ``earlier``, which is what this one was, or a copy, at some time before."""
        found = Histogram(self.schema, self.max_buckets)
        shift = earlier.schema - self.schema  # never negative: a histogram only gets coarser
        found.buckets = dict(self.buckets)
        for index, count in earlier.buckets.items():
            left = found.buckets.get(index >> shift, 0) - count
            if left > 0:
                found.buckets[index >> shift] = left
            else:
                found.buckets.pop(index >> shift, None)
        found.zeros = max(0, self.zeros - earlier.zeros)
        found.count = found.zeros + sum(found.buckets.values())
        found.total = self.total - earlier.total
        return found

    def bound(self, index: int) -> float:
        """Return the lower bound of bucket ``index``, which is the upper bound of the one before."""
        octave, step = divmod(index << self._down, 1 << self._up)
        if octave >= sys.float_info.max_exp:
            return _LARGEST
        return math.ldexp(self._bounds[step], octave + 1)

    def quantile(self, q: float) -> float:
        """Return the value below which a share ``q`` of the values lie; NaN if there are none.

        Interpolates inside the bucket that holds the exact quantile, so it is off by less than that bucket's width
        (9 % at schema 3).
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q is {q}: give a share from 0 to 1")
        if not self.count:
            return math.nan
        rank = q * self.count
        below = self.zeros
        if below and rank <= below:
            return 0.0
        last = 0
        for last in sorted(self.buckets):
            inside = self.buckets[last]
            if below + inside >= rank:
                return _between(self.bound(last), self.bound(last + 1), (rank - below) / inside)
            below += inside
        return self.bound(last + 1)

    def cumulative(self, bounds: Sequence[float]) -> list[int]:
        """Return how many values are at most each of the ascending ``bounds``, as classic histograms count.

        A bucket that a bound cuts in two is shared out by interpolation, rounded down. So each figure is exact up to
        a part of one bucket, and never falls while the schema stays as it is.
        """
        order = sorted(self.buckets)
        counts: list[int] = []
        below = self.zeros
        position = 0
        for bound in bounds:
            while position < len(order) and self.bound(order[position] + 1) <= bound:
                below += self.buckets[order[position]]
                position += 1
            counts.append(below + self._part(order[position], bound) if position < len(order) else below)
        return counts

    def _part(self, index: int, bound: float) -> int:
        low, high = self.bound(index), self.bound(index + 1)
        if not 0 < low < bound:
            return 0
        return int(self.buckets[index] * math.log(bound / low) / math.log(high / low))

    def __repr__(self) -> str:
        return f"<Histogram of {self.count} values, schema {self.schema}, {len(self.buckets)} buckets>"


def _between(low: float, high: float, share: float) -> float:
    """Interpolate on the logarithmic scale, without overflow at the ends of what a float can hold."""
    return min(high, max(low, low * (high / low) ** share)) if low else high


# The bounds that cut the octave (0.5, 1] at each schema. A coarser schema's are every second one of the finer's, to
# the last bit, which is what makes merging exact.
_BOUNDS: list[list[float]] = [[0.5 * 2.0 ** (j / (1 << s)) for j in range(1 << s)] for s in range(MAX_SCHEMA + 1)]
