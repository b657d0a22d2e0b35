"""What work that ended says about its endpoint: who goes out, for how long, and who comes back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random
from typing import Any

import trio

from linkerd_proxy.balance.breaker import Outcome, Reason
from linkerd_proxy.balance.flight import Flight
from linkerd_proxy.balance.picks import P2c
from linkerd_proxy.balance.replica import Replica
from linkerd_proxy.balance.roster import Roster
from linkerd_proxy.balance.states import Event
from linkerd_proxy.balance.tuning import Tuning
from linkerd_proxy.core.classify import Classify, classify
from linkerd_proxy.core.clock import open_clock

__all__ = ["Health"]

logger: logging.Logger = logging.getLogger("linkerd_proxy.balance")


class Health:
    """Hears from every flight how it went, and moves the endpoints accordingly.

    Args:
        name: The balancer's, for the log.
        roster: The endpoints.
        tuning: When one goes out, and for how long.
        dice: The backoffs' jitter.
        ejected: Called with the reason whenever an endpoint goes out.
    """

    __slots__ = ("_dice", "_ejected", "_name", "_roster", "_tuning", "classify", "clock", "judges_all", "measure")

    def __init__(
        self, name: str, roster: Roster[Any], tuning: Tuning, dice: Random, ejected: Callable[[Reason], None]
    ) -> None:
        self._name = name
        self._roster = roster
        self._tuning = tuning
        self._dice = dice
        self._ejected = ejected
        self.clock: Callable[[], float] = open_clock()
        self.classify: Classify = tuning.classify
        self.judges_all: bool = tuning.classify is not classify
        """Whether even answers below 400 may be failures."""
        self.measure: P2c = tuning.measure

    def take(self, replica: Replica[Any], *, blind: bool) -> None:
        """Let a probe go to an endpoint on probation."""
        replica.blind = blind
        self._roster.move(replica, "taken")

    def settle(self, flight: Flight, outcome: Outcome, now: float, *, unreachable: bool = False) -> None:
        """Take in how a piece of work went."""
        replica = flight.replica
        if flight.generation != replica.generation:
            return  # it was sent before the endpoint went out the last time
        if flight.probe and replica.state == "probing":
            self._settle_probe(replica, outcome, now, unreachable=unreachable)
        elif replica.state == "ready":
            if unreachable:
                self.eject(replica, "connect", "tripped")
            elif replica.accrual is not None:
                reason = replica.accrual.add(outcome, now)
                if flight.probe and outcome == "failure":  # it passed for the time being
                    reason = replica.reason
                elif flight.probe:
                    replica.failures = 0
                if reason is not None and self._may_eject():
                    self.eject(replica, reason, "tripped")

    def _settle_probe(self, replica: Replica[Any], outcome: Outcome, now: float, *, unreachable: bool) -> None:
        accrual = replica.accrual
        passed = outcome != "failure" if accrual is None else accrual.passes(outcome)
        if unreachable or not passed:
            self.eject(replica, "connect" if unreachable else replica.reason, "failed")
        else:
            replica.failures = 0
            self.readmit(replica, now)

    def pass_for_now(self, flight: Flight) -> None:
        """Take an endpoint back on the head of a probe's answer; its end may still put it out again."""
        replica = flight.replica
        if flight.generation == replica.generation and replica.state == "probing":
            self.readmit(replica, trio.current_time())

    def abandon(self, flight: Flight) -> None:
        """Wait for another probe: this one ended and told nothing."""
        if flight.generation == flight.replica.generation and flight.replica.state == "probing":
            self._roster.move(flight.replica, "abandoned")

    def _may_eject(self) -> bool:
        breaker = self._tuning.breaker
        assert breaker is not None
        count = len(self._roster.replicas)
        return count - self._roster.out - 1 >= breaker.floor * count

    def eject(self, replica: Replica[Any], reason: Reason, event: Event) -> None:
        """Put an endpoint out, for longer each time in a row."""
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
        self._roster.move(replica, event)

    def readmit(self, replica: Replica[Any], now: float) -> None:
        """Take an endpoint back after a probe that passed."""
        if replica.accrual is not None:
            replica.accrual.clear()
        replica.ewma.reset(self._tuning.measure.default_rtt, now)  # a penalty must not outlast what it was for
        replica.warm_at = now + self._tuning.slow_start
        self._roster.move(replica, "passed")

    def __repr__(self) -> str:
        return f"<Health of {self._name}: {self._roster.describe()}>"
