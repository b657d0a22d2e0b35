"""The task of one endpoint: its stack is kept open, and what takes time comes to its end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Generic

import trio
from typing_extensions import TypeVar

from linkerd_proxy.balance.health import Health
from linkerd_proxy.balance.replica import Replica
from linkerd_proxy.balance.roster import Roster
from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.endpoint import Endpoint
from linkerd_proxy.core.stack import Stack, opened

__all__ = ["Upkeep"]

logger: logging.Logger = logging.getLogger("linkerd_proxy.balance")

A = TypeVar("A")

_BLIND_PROBE = 5.0  # seconds that a connection must last to pass as a probe: own figure


class Upkeep(Generic[A]):
    """Looks after the endpoints of one balancer, each in a task of its own.

    Args:
        name: The balancer's, for the log.
        make: Makes an endpoint's stack.
        roster: The endpoints.
        health: Puts one out whose stack breaks, and takes it back.
        slow_start: Seconds in which one that is new comes up to its share.
    """

    __slots__ = ("_health", "_make", "_name", "_roster", "_slow_start")

    def __init__(
        self, name: str, make: Callable[[Endpoint], Stack[A]], roster: Roster[A], health: Health, slow_start: float
    ) -> None:
        self._name = name
        self._make = make
        self._roster = roster
        self._health = health
        self._slow_start = slow_start

    async def run(self, replica: Replica[A]) -> None:
        """Keep one endpoint's stack open until discovery removes it and its last work has ended. Raises nothing."""
        try:
            with replica.opening:
                while replica.state != "leaving":
                    await self._keep_open(replica)
        finally:
            self._roster.leaving.discard(replica)

    async def _keep_open(self, replica: Replica[A]) -> None:
        failure: Exception | None = None
        try:
            async with opened(self._make(replica.endpoint)) as replica.service:
                if replica.state == "opening":
                    replica.warm_at = trio.current_time() + self._slow_start
                    self._roster.move(replica, "opened")
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
        self._health.eject(replica, "connect", "broken")
        with trio.move_on_after(replica.out_for):
            await replica.idle.wait()
        if replica.state == "out":
            self._roster.move(replica, "retried")

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
                self._roster.move(replica, "waited")
            else:
                replica.failures = 0
                self._health.readmit(replica, trio.current_time())

    def __repr__(self) -> str:
        return f"<Upkeep of {len(self._roster.replicas)} endpoints>"
