"""One endpoint as a balancer sees it: its state, its load, its open stack."""

from __future__ import annotations

from math import exp
from typing import Generic

import trio
from typing_extensions import TypeVar

from linkerd_proxy.balance.breaker import Accrual, Reason
from linkerd_proxy.balance.ewma import PeakEwma
from linkerd_proxy.balance.states import State
from linkerd_proxy.core.endpoint import Endpoint
from linkerd_proxy.core.stack import Service

__all__ = ["Replica", "Tally"]

A = TypeVar("A")


class Tally:
    """What all endpoints of a balancer have in flight together."""

    __slots__ = ("active",)

    def __init__(self) -> None:
        self.active: int = 0

    def __repr__(self) -> str:
        return f"<Tally of {self.active}>"


class Replica(Generic[A]):
    """The live state of one endpoint. The roster alone changes ``state``."""

    __slots__ = (
        "accrual",
        "active",
        "blind",
        "changed",
        "endpoint",
        "ewma",
        "failed",
        "failures",
        "generation",
        "idle",
        "near",
        "opening",
        "out_for",
        "pending",
        "picked",
        "reason",
        "service",
        "slot",
        "state",
        "tally",
        "turn",
        "warm_at",
        "weight",
    )

    def __init__(
        self, endpoint: Endpoint, ewma: PeakEwma, accrual: Accrual | None, *, near: bool, tally: Tally
    ) -> None:
        self.tally: Tally = tally
        self.endpoint: Endpoint = endpoint
        self.ewma: PeakEwma = ewma
        self.accrual: Accrual | None = accrual
        self.weight: float = endpoint.weight
        self.near: bool = near
        """Whether it is in the balancer's own zone."""
        self.state: State = "opening"
        self.service: Service[A] | None = None
        self.slot: int = -1
        """Its place in its picker's list of ready ones."""
        self.turn: int = -1
        """Its newest entry in a queue of turns: older ones don't count."""
        self.pending: int = 0
        """Work that waits for the beginning of its answer."""
        self.active: int = 0
        """Work that has not ended."""
        self.picked: int = 0
        self.failed: int = 0
        self.generation: int = 0
        """Counts how often it went out: what was begun before that says nothing about after."""
        self.failures: int = 0
        """How often in a row it went out, for the backoff."""
        self.reason: Reason = "connect"
        """Why it went out the last time."""
        self.out_for: float = 0.0
        """How long it goes out this time, in seconds."""
        self.blind: bool = False
        """Whether the probe in flight is of a kind that tells nothing before its end."""
        self.warm_at: float = 0.0
        """When its slow start is over."""
        self.changed: trio.Event = trio.Event()
        self.idle: trio.Event = trio.Event()
        self.opening: trio.CancelScope = trio.CancelScope()

    def load(self, now: float) -> float:
        """Return the latency estimate times the work that waits, by weight: what P2C compares."""
        ewma = self.ewma
        elapsed = now - ewma.at
        rtt = ewma.rtt * exp(-elapsed * ewma.rate) if elapsed > 0 else ewma.rtt
        return rtt * (self.pending / self.weight + 1)

    def __repr__(self) -> str:
        rtt = self.ewma.rtt * 1000
        return f"<Replica {self.endpoint.address} {self.state}, {self.active} in flight, {rtt:.3g} ms>"
