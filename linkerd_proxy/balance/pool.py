"""The endpoints of one balancer: each a task with its own open stack, moved from state to state."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Generic

import trio
from typing_extensions import TypeVar

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.balance.again import choose_elsewhere, choose_probe
from linkerd_proxy.balance.breaker import Accrual, Outcome, Reason
from linkerd_proxy.balance.ewma import PeakEwma
from linkerd_proxy.balance.flight import Classify, Flight
from linkerd_proxy.balance.picks import P2c, Picker
from linkerd_proxy.balance.queue import Queue
from linkerd_proxy.balance.replica import Replica, Tally
from linkerd_proxy.balance.states import TRANSITIONS, Event
from linkerd_proxy.balance.tuning import Tuning
from linkerd_proxy.core.attempt import Attempt, current_attempt
from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.classify import classify
from linkerd_proxy.core.endpoint import Add, Endpoint, Gone, Remove, Reset, Update
from linkerd_proxy.core.stack import Stack, opened

__all__ = ["Pool"]

logger: logging.Logger = logging.getLogger("linkerd_proxy")

A = TypeVar("A")

_BLIND_PROBE = 5.0  # seconds that a connection must last to pass as a probe: own figure
_OUT = frozenset({"out", "probation", "probing"})
_DRAWS = 4  # how often an endpoint in slow start may give way


class Pool(Generic[A]):
    """All endpoints of one opened balancer.

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

    __slots__ = (
        "_dice",
        "_ejected",
        "_make",
        "_name",
        "_nursery",
        "_out",
        "_ready",
        "_tally",
        "_tuning",
        "classify",
        "gone",
        "judges_all",
        "leaving",
        "measure",
        "picker",
        "probation",
        "queue",
        "replicas",
    )

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
        self._name = f"balancer {name}" if name else "balancer"
        self._make = make
        self._tuning = tuning
        self._dice = dice
        self._nursery = nursery
        self._ejected = ejected
        self._out = 0
        self._ready = 0
        self._tally = Tally()
        self.picker: Picker[A] = picker
        self.queue: Queue = queue
        self.classify: Classify = tuning.classify
        self.judges_all: bool = tuning.classify is not classify
        """Whether even answers below 400 may be failures."""
        self.measure: P2c = tuning.measure
        self.replicas: dict[AnyAddress, Replica[A]] = {}
        self.leaving: set[Replica[A]] = set()
        """Those that discovery removed and that have work in flight."""
        self.probation: dict[Replica[A], float] = {}
        """Those that wait for a probe, longest first, and since when."""
        self.gone: str | None = None
        """Why the name does not exist, if it does not."""

    # --- who there is --------------------------------------------------------------------------

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
                for address in [address for address in self.replicas if address not in wanted]:
                    self._remove(address)
                for endpoint in endpoints:
                    self._add(endpoint)
            case Gone(problem):
                self.gone = problem
                for address in list(self.replicas):
                    self._remove(address)
                self.queue.open()

    def _add(self, endpoint: Endpoint) -> None:
        self.gone = None
        known = self.replicas.get(endpoint.address)
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
        self.replicas[endpoint.address] = replica
        if replica.weight > 0:
            self.picker.enrol(replica)
        self._nursery.start_soon(self._run, replica, name=f"<endpoint {endpoint.address}>")

    def _weigh(self, replica: Replica[A], endpoint: Endpoint) -> None:
        replica.endpoint = endpoint
        if replica.weight == endpoint.weight:
            return
        if replica.state == "ready":
            self.picker.discard(replica)
        self.picker.dismiss(replica)
        replica.weight = endpoint.weight
        self.picker.enrol(replica)
        if replica.state == "ready":
            self.picker.add(replica)

    def _remove(self, address: AnyAddress) -> None:
        replica = self.replicas.pop(address, None)
        if replica is None:
            return
        self.leaving.add(replica)
        self.move(replica, "removed")
        if replica.weight > 0:
            self.picker.dismiss(replica)
        if not replica.active:
            replica.idle.set()
        if replica.service is None:
            replica.opening.cancel()

    # --- states --------------------------------------------------------------------------------

    def move(self, replica: Replica[A], event: Event) -> None:
        """Move an endpoint to its next state, and do what that asks for."""
        old = replica.state
        new = replica.state = TRANSITIONS[old, event]
        self._out += (new in _OUT) - (old in _OUT)
        if replica.weight > 0:
            self._ready += (new == "ready") - (old == "ready")
        if replica.weight > 0 and old != new:
            if old == "ready":
                self.picker.discard(replica)
            elif old == "probation":
                self.probation.pop(replica, None)
            if new == "ready":
                self.picker.add(replica)
                self.queue.open()
            elif new == "probation":
                self.probation[replica] = trio.current_time()
                self.queue.open_once()
        changed, replica.changed = replica.changed, trio.Event()
        changed.set()

    def take(self, replica: Replica[A], *, blind: bool) -> None:
        """Let a probe go to an endpoint on probation."""
        replica.blind = blind
        self.move(replica, "taken")

    def settle(self, flight: Flight, outcome: Outcome, now: float, *, unreachable: bool = False) -> None:
        """Take in how a piece of work went."""
        replica: Replica[A] = flight.replica
        accrual = replica.accrual
        if flight.generation != replica.generation:
            return  # it was sent before the endpoint went out the last time
        if flight.probe and replica.state == "probing":
            passed = outcome != "failure" if accrual is None else accrual.passes(outcome)
            if unreachable or not passed:
                self._eject(replica, "connect" if unreachable else replica.reason, "failed")
            else:
                replica.failures = 0
                self._readmit(replica, now)
        elif replica.state == "ready":
            if unreachable:
                self._eject(replica, "connect", "tripped")
            elif accrual is not None:
                reason = accrual.add(outcome, now)
                if flight.probe and outcome == "failure":  # it passed for the time being
                    reason = replica.reason
                elif flight.probe:
                    replica.failures = 0
                if reason is not None and self._may_eject():
                    self._eject(replica, reason, "tripped")

    def pass_for_now(self, flight: Flight) -> None:
        """Take an endpoint back on the head of a probe's answer; its end may still put it out again."""
        replica: Replica[A] = flight.replica
        if flight.generation == replica.generation and replica.state == "probing":
            self._readmit(replica, trio.current_time())

    def abandon(self, flight: Flight) -> None:
        """Wait for another probe: this one ended and told nothing."""
        if flight.generation == flight.replica.generation and flight.replica.state == "probing":
            self.move(flight.replica, "abandoned")

    def _may_eject(self) -> bool:
        breaker = self._tuning.breaker
        assert breaker is not None
        count = len(self.replicas)
        return count - self._out - 1 >= breaker.floor * count

    def _eject(self, replica: Replica[A], reason: Reason, event: Event) -> None:
        tuning = self._tuning
        backoff = tuning.connect_backoff
        if reason != "connect" and tuning.breaker is not None:
            backoff = tuning.breaker.backoff
        replica.failures = replica.failures + 1 if reason == replica.reason else 1
        replica.reason = reason
        replica.generation += 1
        replica.out_for = backoff.seconds(replica.failures, self._dice)
        self._ejected(reason)
        logger.info("%s: %s is out for %.3g s (%s)", self._name, replica.endpoint.address, replica.out_for, reason)
        self.move(replica, event)

    def _readmit(self, replica: Replica[A], now: float) -> None:
        if replica.accrual is not None:
            replica.accrual.clear()
        replica.ewma.reset(self._tuning.measure.default_rtt, now)  # a penalty must not outlast what it was for
        replica.warm_at = now + self._tuning.slow_start
        self.move(replica, "passed")

    # --- picking -------------------------------------------------------------------------------

    def is_ready(self) -> bool:
        """Whether work would go to an endpoint without waiting."""
        return self._ready > 0 or bool(self.probation)

    def pick_again(self, work: A, now: float) -> Replica[A] | None:
        """Return another endpoint for work that met one which could not be reached: once is enough, so no probe."""
        replica = self._fresh(self.picker.pick(work, now), current_attempt(), now)
        return replica if replica is not None else next(iter(self.probation), None)

    def pick(self, work: A, now: float) -> Replica[A] | None:
        """Return the endpoint for a piece of work, or None if there is none at the moment."""
        attempt = current_attempt()
        if self.probation:
            probed = choose_probe(self.probation, attempt, self._ready, now)
            if probed is not None:
                return probed
        replica = self.picker.pick(work, now)
        if replica is not None and replica.warm_at > now:
            replica = self._cool(replica, work, now)
        return replica if attempt is None or not attempt.tried else self._fresh(replica, attempt, now)

    def _fresh(self, replica: Replica[A] | None, attempt: Attempt | None, now: float) -> Replica[A] | None:
        """Return the endpoint, or one where the work's earlier tries have not been if there is one."""
        if replica is None or attempt is None or replica.endpoint.address not in attempt.tried:
            return replica
        return choose_elsewhere(self.replicas.values(), attempt.tried, now, self._dice) or replica

    def _cool(self, replica: Replica[A], work: A, now: float) -> Replica[A]:
        """Let an endpoint that is new take less than its share: from a tenth of it, growing with time (as in Envoy)."""
        for _ in range(_DRAWS):
            share = 1 - (replica.warm_at - now) / self._tuning.slow_start
            if share >= 1 or self._dice.random() < max(0.1, share):
                break
            other = self.picker.pick(work, now)
            if other is None:
                break
            replica = other
        return replica

    # --- an endpoint's task --------------------------------------------------------------------

    async def _run(self, replica: Replica[A]) -> None:
        """Keep one endpoint's stack open until discovery removes it and its last work has ended. Raises nothing."""
        try:
            with replica.opening:
                while replica.state != "leaving":
                    await self._keep_open(replica)
        finally:
            self.leaving.discard(replica)

    async def _keep_open(self, replica: Replica[A]) -> None:
        failure: Exception | None = None
        try:
            async with opened(self._make(replica.endpoint)) as replica.service:
                if replica.state == "opening":
                    replica.warm_at = trio.current_time() + self._tuning.slow_start
                    self.move(replica, "opened")
                await self._mind(replica)
                await replica.idle.wait()
        # The stack could not be opened, or a task of its own failed: this endpoint's trouble alone. A cancellation in
        # the same group passes on.
        except* Exception as group:
            failure = unwrapped(group)
        if failure is None or replica.state == "leaving":
            return
        text = str(failure) or type(failure).__name__
        logger.warning("%s: the stack of %s failed: %s", self._name, replica.endpoint.address, text)
        replica.service = None
        self._eject(replica, "connect", "broken")
        with trio.move_on_after(replica.out_for):
            await replica.idle.wait()
        if replica.state == "out":
            self.move(replica, "retried")

    async def _mind(self, replica: Replica[A]) -> None:
        """Do what takes time: end backoffs, and probes of which nothing is heard."""
        while replica.state != "leaving":
            state, changed = replica.state, replica.changed
            seconds = math.inf
            if state == "out":
                seconds = replica.out_for
            elif state == "probing" and replica.blind:
                seconds = _BLIND_PROBE
            with trio.move_on_after(seconds):
                await changed.wait()
            if changed.is_set():
                continue
            if state == "out":
                self.move(replica, "waited")
            else:
                replica.failures = 0
                self._readmit(replica, trio.current_time())

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
        return f"<Pool of {len(self.replicas)} endpoints: {self.describe()}>"


def _same_but_weight(one: Endpoint, other: Endpoint) -> bool:
    return replace(one, weight=other.weight) == other
