"""Which endpoint a piece of work goes to: what the picker says, but for probes, further tries and slow starts."""

from __future__ import annotations

from random import Random
from typing import Generic

from typing_extensions import TypeVar

from linkerd_proxy.balance.again import choose_elsewhere, choose_probe
from linkerd_proxy.balance.replica import Replica
from linkerd_proxy.balance.roster import Roster
from linkerd_proxy.core.attempt import Attempt, current_attempt

__all__ = ["Choice"]

A = TypeVar("A")

_DRAWS = 4  # how often an endpoint in slow start may give way


class Choice(Generic[A]):
    """Chooses among the endpoints of one balancer.

    Args:
        roster: The endpoints.
        slow_start: Seconds in which one that is new, or back, comes up to its share.
        dice: What is random.
    """

    __slots__ = ("_dice", "_picker", "_probation", "_roster", "_slow_start")

    def __init__(self, roster: Roster[A], slow_start: float, dice: Random) -> None:
        self._roster = roster
        self._picker = roster.picker
        self._probation = roster.probation
        self._slow_start = slow_start
        self._dice = dice

    def pick(self, work: A, now: float) -> Replica[A] | None:
        """Return the endpoint for a piece of work, or None if there is none at the moment."""
        attempt = current_attempt()
        if self._probation:
            probed = choose_probe(self._probation, attempt, self._roster.ready, now)
            if probed is not None:
                return probed
        replica = self._picker.pick(work, now)
        if replica is not None and replica.warm_at > now:
            replica = self._cool(replica, work, now)
        return replica if attempt is None or not attempt.tried else self._fresh(replica, attempt, now)

    def pick_again(self, work: A, now: float) -> Replica[A] | None:
        """Return another endpoint for work that met one which could not be reached: once is enough, so no probe."""
        replica = self._fresh(self._picker.pick(work, now), current_attempt(), now)
        return replica if replica is not None else next(iter(self._probation), None)

    def _fresh(self, replica: Replica[A] | None, attempt: Attempt | None, now: float) -> Replica[A] | None:
        """Return the endpoint, or one where the work's earlier tries have not been if there is one."""
        if replica is None or attempt is None or replica.endpoint.address not in attempt.tried:
            return replica
        return choose_elsewhere(self._roster.replicas.values(), attempt.tried, now, self._dice) or replica

    def _cool(self, replica: Replica[A], work: A, now: float) -> Replica[A]:
        """Let an endpoint that is new take less than its share: from a tenth of it, growing with time (as in Envoy)."""
        for _ in range(_DRAWS):
            share = 1 - (replica.warm_at - now) / self._slow_start
            if share >= 1 or self._dice.random() < max(0.1, share):
                break
            other = self._picker.pick(work, now)
            if other is None:
                break
            replica = other
        return replica

    def __repr__(self) -> str:
        return f"<Choice among {len(self._roster.replicas)} endpoints>"
