"""Consistent hashing with bounded loads: the same key to the same endpoint, as long as that one is not overrun."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any, TypeAlias

from typing_extensions import TypeVar

from linkerd_proxy.balance.picks import P2c, Picker
from linkerd_proxy.balance.replica import Replica
from linkerd_proxy.core.work import Connection, Dial, Exchange
from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["Header", "Key", "Peer", "Ring"]

A = TypeVar("A")

Key: TypeAlias = Callable[[Any], str | None]
"""Returns what decides where a piece of work goes, or None if anywhere will do."""

_BUCKETS = 1024
_SHIFT = 64 - 10
_POINTS = 64  # on the ring, for an endpoint of weight 1: shares differ by an eighth
_MAX_POINTS = 64 * 64


@dataclass(frozen=True, slots=True)
class Header:
    """A key from a request's header field, such as ``Header("x-user")``."""

    name: str

    def __call__(self, work: object) -> str | None:
        """Return the field's value."""
        return work.request.headers.get(self.name) if isinstance(work, Exchange) else None


@dataclass(frozen=True, slots=True)
class Peer:
    """A key from who asks: the identity that mutual TLS proved, or else the client's IP address."""

    def __call__(self, work: object) -> str | None:
        """Return the client's name."""
        if isinstance(work, Dial):
            return None if work.client is None else str(getattr(work.client, "host", work.client))
        connection = work.connection if isinstance(work, Exchange) else work
        if not isinstance(connection, Connection):
            return None
        if connection.tls is not None and connection.tls.peer_identity is not None:
            return connection.tls.peer_identity
        return str(getattr(connection.peer, "host", connection.peer))


@dataclass(frozen=True, slots=True)
class Ring:
    """The endpoint that a key hashes to; when that one has too much to do or is not ready, the next one on the ring.

    An endpoint that comes or goes moves only the keys that it has or had. The hash is the same in every process. Work
    without a key goes by ``P2c``. (Karger et al. 1997; "Consistent Hashing with Bounded Loads", Mirrokni et al. 2016)

    Args:
        key: What decides: ``Header(...)``, ``Peer()``, or a function of the work.
        bound: How many times its share of the work in flight an endpoint may have.
    """

    key: Key
    bound: float = 1.25

    def __post_init__(self) -> None:
        if not self.bound > 1:
            raise InvalidConfiguration(f"Ring(bound={self.bound!r}) leaves no endpoint free: give more than 1")

    def picker(self, dice: Random) -> Picker[Any]:
        """Return a live picker."""
        return _Ring(self, P2c().picker(dice))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class _Ring:
    """The ring, cut into buckets, so that an endpoint comes and goes at the same cost whatever their number."""

    __slots__ = ("_any", "_bound", "_buckets", "_key", "_points", "_ready", "_weight")

    def __init__(self, ring: Ring, anywhere: Picker[Any]) -> None:
        self._key = ring.key
        self._bound = ring.bound
        self._any = anywhere
        self._buckets: list[list[tuple[int, int, Replica[Any]]]] = [[] for _ in range(_BUCKETS)]
        self._points: dict[Replica[Any], list[int]] = {}
        self._ready: dict[Replica[Any], None] = {}
        self._weight = 0.0

    def enrol(self, replica: Replica[Any]) -> None:
        """Put an endpoint on the ring, ready or not: keys must not move because it is out for a while."""
        address = replica.endpoint.address
        count = min(_MAX_POINTS, max(1, round(_POINTS * replica.weight)))
        points = self._points[replica] = [_hash(f"{address}#{number}") for number in range(count)]
        for point in points:
            insort(self._buckets[point >> _SHIFT], (point, id(replica), replica))

    def dismiss(self, replica: Replica[Any]) -> None:
        """Take an endpoint off the ring."""
        points = self._points.pop(replica)
        for index in {point >> _SHIFT for point in points}:
            self._buckets[index] = [entry for entry in self._buckets[index] if entry[2] is not replica]

    def add(self, replica: Replica[Any]) -> None:
        """Take in an endpoint that became ready."""
        self._ready[replica] = None
        self._weight += replica.weight
        self._any.add(replica)

    def discard(self, replica: Replica[Any]) -> None:
        """Leave out an endpoint that is ready no more."""
        del self._ready[replica]
        self._weight -= replica.weight
        self._any.discard(replica)

    def pick(self, work: Any, now: float) -> Replica[Any] | None:
        """Return the first on the ring, from the key on, that is ready and below its bound."""
        if not self._ready:
            return None
        key = self._key(work)
        if key is None:
            return self._any.pick(work, now)
        room = self._bound * (next(iter(self._ready)).tally.active + 1) / self._weight
        point = _hash(key)
        index = point >> _SHIFT
        bucket = self._buckets[index]
        start = bisect_left(bucket, (point,))
        for step in range(_BUCKETS + 1):
            bucket = self._buckets[(index + step) % _BUCKETS]
            for _, _, replica in bucket[start:] if not step else bucket:
                if replica in self._ready and replica.active < math.ceil(room * replica.weight):
                    return replica
        return self._any.pick(work, now)
