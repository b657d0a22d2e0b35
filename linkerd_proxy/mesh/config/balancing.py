"""The parts of a configuration that say how one of several endpoints is picked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from linkerd_proxy.balance.picks import LeastRequest, P2c, Pick, RoundRobin
from linkerd_proxy.balance.ring import Header, Peer, Ring
from linkerd_proxy.document.shape import Duration, Range, Tagged
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.config.resilience import BackoffEntry

__all__ = [
    "BalanceEntry",
    "HeaderKeyEntry",
    "LeastRequestEntry",
    "P2cEntry",
    "PickEntry",
    "RingEntry",
    "RoundRobinEntry",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class P2cEntry:
    """The one of two at random that answers sooner, by its peak-EWMA latency and the work that waits for it."""

    default_rtt: Duration = 0.03
    """What an endpoint is thought to take before it has answered."""
    decay: Duration = 10.0
    """After which what was measured weighs 1/e."""
    penalty: Duration = 2.0
    """What a failed answer counts as having taken, at least; 0s measures failures as they are."""
    peak: bool = False
    """Whether a failure weighs at once and in full (with ``penalty: 5s`` Linkerd's penalty EWMA)."""

    def __post_init__(self) -> None:
        self.value()

    def value(self) -> P2c:
        """Return the value."""
        return P2c(self.default_rtt, self.decay, self.penalty, self.peak)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastRequestEntry:
    """The one with less work in flight, of a few at random."""

    choices: Annotated[int, Range(2, 1000)] = 2
    """How many are drawn."""

    def value(self) -> LeastRequest:
        """Return the value."""
        return LeastRequest(self.choices)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRobinEntry:
    """Each in turn, as often as its weight says."""

    def value(self) -> RoundRobin:
        """Return the value."""
        return RoundRobin()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderKeyEntry:
    """A key that a request's header field holds. Requests without it go by ``p2c``, and so does raw TCP."""

    header: str
    """The field's name."""

    def __post_init__(self) -> None:
        if not self.header.strip():
            raise InvalidConfiguration("header names no field: give one, as in {header: x-user}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RingEntry:
    """The same key to the same endpoint, as long as that one is not overrun: consistent hashing with bounded loads."""

    key: Literal["peer"] | HeaderKeyEntry = "peer"
    """What decides: ``peer``, the identity that a client proved or else its IP address, or a header field."""
    bound: Annotated[float, Range(1.001, 1000)] = 1.25
    """How many times its share of the work in flight an endpoint may have."""

    def value(self) -> Ring:
        """Return the value."""
        return Ring(Peer() if isinstance(self.key, str) else Header(self.key.header), self.bound)


_PICKS = {"p2c": P2cEntry, "least_request": LeastRequestEntry, "round_robin": RoundRobinEntry, "ring": RingEntry}

PickEntry: TypeAlias = Annotated[P2cEntry | LeastRequestEntry | RoundRobinEntry | RingEntry, Tagged("type", _PICKS)]
"""A way to pick with its settings, told apart by its ``type``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceEntry:
    """How one of the endpoints is picked."""

    pick: Literal["p2c", "least_request", "round_robin", "ring"] | PickEntry = "p2c"
    """The one that answers sooner of two (peak EWMA), the least busy, each in turn, or by consistent hashing."""
    queue: Annotated[int, Range(0, 1_000_000)] = 2000
    """How much work may wait for an endpoint."""
    failfast: Duration = 3.0
    """How long it waits; when none was ready for so long, work fails at once."""
    zone: str = ""
    """The zone of this proxy, whose endpoints are preferred."""
    spill: Annotated[float, Range(1, 1_000_000)] = 4.0
    """How many times the load of an endpoint elsewhere one in this zone may have."""
    slow_start: Duration = 0.0
    """In which an endpoint that is new, or back, comes up to its share."""
    connect_backoff: BackoffEntry = BackoffEntry(minimum=0.1, maximum=60.0, jitter=0.1)  # noqa: RUF009  # frozen
    """Waits before an endpoint that can't be reached is tried again."""

    def picked(self) -> Pick:
        """Return the way to pick."""
        pick: Pick = (_PICKS[self.pick]() if isinstance(self.pick, str) else self.pick).value()
        return pick
