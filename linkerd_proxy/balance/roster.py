"""The endpoints of one balancer by their state, and what a move from state to state asks for."""

from __future__ import annotations

from typing import Generic

import trio
from typing_extensions import TypeVar

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.balance.picks import Picker
from linkerd_proxy.balance.queue import Queue
from linkerd_proxy.balance.replica import Replica
from linkerd_proxy.balance.states import TRANSITIONS, Event

__all__ = ["Roster"]

A = TypeVar("A")

_OUT = frozenset({"out", "probation", "probing"})


class Roster(Generic[A]):
    """Who there is, and who of them is ready, out or on probation. It alone changes an endpoint's state.

    Args:
        picker: Hears which are ready.
        queue: Those who wait for one that is.
    """

    __slots__ = ("leaving", "out", "picker", "probation", "queue", "ready", "replicas")

    def __init__(self, picker: Picker[A], queue: Queue) -> None:
        self.picker: Picker[A] = picker
        self.queue: Queue = queue
        self.replicas: dict[AnyAddress, Replica[A]] = {}
        self.leaving: set[Replica[A]] = set()
        """Those that discovery removed and that have work in flight."""
        self.probation: dict[Replica[A], float] = {}
        """Those that wait for a probe, longest first, and since when."""
        self.ready: int = 0
        """How many take work, without those that have no weight."""
        self.out: int = 0
        """How many take none since they failed."""

    def is_ready(self) -> bool:
        """Whether work would go to an endpoint without waiting."""
        return self.ready > 0 or bool(self.probation)

    def move(self, replica: Replica[A], event: Event) -> None:
        """Move an endpoint to its next state, and do what that asks for."""
        old = replica.state
        new = replica.state = TRANSITIONS[old, event]
        self.out += (new in _OUT) - (old in _OUT)
        if replica.weight > 0 and old != new:
            if old == "ready":
                self.ready -= 1
                self.picker.discard(replica)
            elif old == "probation":
                self.probation.pop(replica, None)
            if new == "ready":
                self.ready += 1
                self.picker.add(replica)
                self.queue.open()
            elif new == "probation":
                self.probation[replica] = trio.current_time()
                self.queue.open_once()
        changed, replica.changed = replica.changed, trio.Event()
        changed.set()

    def describe(self) -> str:
        """Say how the endpoints are, in a few words."""
        if not self.replicas:
            return "there are none"
        counts: dict[str, int] = {}
        for replica in self.replicas.values():
            state = replica.state if replica.weight > 0 else "without weight"
            counts[state] = counts.get(state, 0) + 1
        return ", ".join(f"{count} {state}" for state, count in counts.items())

    def __repr__(self) -> str:
        return f"<Roster of {len(self.replicas)} endpoints: {self.describe()}>"
