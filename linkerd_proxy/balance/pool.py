"""The endpoints of one balancer: they come and go as discovery tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Generic

import trio
from typing_extensions import TypeVar

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.balance.breaker import Accrual, Reason
from linkerd_proxy.balance.choice import Choice
from linkerd_proxy.balance.ewma import PeakEwma
from linkerd_proxy.balance.health import Health
from linkerd_proxy.balance.picks import Picker
from linkerd_proxy.balance.queue import Queue
from linkerd_proxy.balance.replica import Replica, Tally
from linkerd_proxy.balance.roster import Roster
from linkerd_proxy.balance.tuning import Tuning
from linkerd_proxy.balance.upkeep import Upkeep
from linkerd_proxy.core.endpoint import Add, Endpoint, Gone, Remove, Reset, Update
from linkerd_proxy.core.stack import Stack

__all__ = ["Pool"]

A = TypeVar("A")


class Pool(Generic[A]):
    """All endpoints of one opened balancer, with those who choose among them, judge them and keep them open.

    Args:
        name: The balancer's, for the log.
        make: Makes an endpoint's stack.
        picker: Picks among those that are ready.
        queue: Who waits for one.
        tuning: Everything else.
        dice: What is random.
        nursery: Where the endpoints' tasks live.
        ejected: Called with the reason whenever an endpoint goes out.
    """

    __slots__ = ("_nursery", "_tally", "_tuning", "_upkeep", "choice", "gone", "health", "queue", "roster")

    def __init__(
        self,
        name: str,
        make: Callable[[Endpoint], Stack[A]],
        picker: Picker[A],
        queue: Queue,
        tuning: Tuning,
        dice: Random,
        nursery: trio.Nursery,
        ejected: Callable[[Reason], None],
    ) -> None:
        title = f"balancer {name}" if name else "balancer"
        self._tuning = tuning
        self._nursery = nursery
        self._tally = Tally()
        self.queue: Queue = queue
        self.roster: Roster[A] = Roster(picker, queue)
        self.choice: Choice[A] = Choice(self.roster, tuning.slow_start, dice)
        self.health: Health = Health(title, self.roster, tuning, dice, ejected)
        self._upkeep = Upkeep(title, make, self.roster, self.health, tuning.slow_start)
        self.gone: str | None = None
        """Why the name does not exist, if it does not."""

    def apply(self, update: Update) -> None:
        """Take in what discovery tells. Endpoints that stay keep their connections and what is known of them."""
        match update:
            case Add(endpoints):
                for endpoint in endpoints:
                    self._add(endpoint)
            case Remove(addresses):
                for address in addresses:
                    self._remove(address)
            case Reset(endpoints):
                self.gone = None
                wanted = {endpoint.address for endpoint in endpoints}
                for address in [address for address in self.roster.replicas if address not in wanted]:
                    self._remove(address)
                for endpoint in endpoints:
                    self._add(endpoint)
            case Gone(problem):
                self.gone = problem
                for address in list(self.roster.replicas):
                    self._remove(address)
                self.queue.open()

    def _add(self, endpoint: Endpoint) -> None:
        self.gone = None
        roster = self.roster
        known = roster.replicas.get(endpoint.address)
        if known is not None:
            if _same_but_weight(known.endpoint, endpoint) and (known.weight > 0) == (endpoint.weight > 0):
                self._weigh(known, endpoint)
                return
            # A stack may depend on anything that it was told: only a new one knows what is new.
            self._remove(endpoint.address)
        tuning = self._tuning
        now = trio.current_time()
        ewma = PeakEwma(tuning.measure.default_rtt, tuning.measure.decay, now)
        accrual = Accrual(tuning.breaker) if tuning.breaker is not None else None
        near = not tuning.zone or endpoint.zone == tuning.zone
        replica = Replica[A](endpoint, ewma, accrual, near=near, tally=self._tally)
        roster.replicas[endpoint.address] = replica
        if replica.weight > 0:
            roster.picker.enrol(replica)
        self._nursery.start_soon(self._upkeep.run, replica, name=f"<endpoint {endpoint.address}>")

    def _weigh(self, replica: Replica[A], endpoint: Endpoint) -> None:
        replica.endpoint = endpoint
        if replica.weight == endpoint.weight:
            return
        picker = self.roster.picker
        if replica.state == "ready":
            picker.discard(replica)
        picker.dismiss(replica)
        replica.weight = endpoint.weight
        picker.enrol(replica)
        if replica.state == "ready":
            picker.add(replica)

    def _remove(self, address: AnyAddress) -> None:
        roster = self.roster
        replica = roster.replicas.pop(address, None)
        if replica is None:
            return
        roster.leaving.add(replica)
        roster.move(replica, "removed")
        if replica.weight > 0:
            roster.picker.dismiss(replica)
        if not replica.active:
            replica.idle.set()
        if replica.service is None:
            replica.opening.cancel()

    def __repr__(self) -> str:
        return f"<Pool of {len(self.roster.replicas)} endpoints: {self.roster.describe()}>"


def _same_but_weight(one: Endpoint, other: Endpoint) -> bool:
    return replace(one, weight=other.weight) == other
