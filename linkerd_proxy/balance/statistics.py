"""What a balancer tells about itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from linkerd_proxy.balance.states import State
from linkerd_proxy.core.endpoint import Endpoint

__all__ = ["BalanceStatistics", "EndpointStatistics", "Reporting", "current_balancers"]


@dataclass(frozen=True, slots=True)
class EndpointStatistics:
    """How one endpoint is.

    Args:
        endpoint: Which.
        state: ``opening``, ``ready``, ``out``, ``probation``, ``probing`` or ``leaving``.
        in_flight: Work that has not ended.
        pending: Work that waits for the beginning of its answer.
        rtt: The latency estimate, in seconds.
        picked: Work that it was given.
        failed: Work that failed by its fault.
        ejections: How often it went out.
    """

    endpoint: Endpoint
    state: State
    in_flight: int
    pending: int
    rtt: float
    picked: int
    failed: int
    ejections: int


@dataclass(frozen=True, slots=True)
class BalanceStatistics:
    """How a balancer is.

    Args:
        name: Its name, perhaps empty.
        endpoints: Those that there are, and those that are leaving.
        waiting: Work that waits for one to be ready.
        failing_fast: Whether work fails at once because none was for too long.
    """

    name: str
    endpoints: tuple[EndpointStatistics, ...]
    waiting: int
    failing_fast: bool


class Reporting(Protocol):
    """Something that tells how it is: an open balancer."""

    def statistics(self) -> BalanceStatistics:
        """Return how it is now."""
        ...


_balancers: trio.lowlevel.RunVar[list[Reporting]] = trio.lowlevel.RunVar("linkerd_proxy.balancers")


def current_balancers() -> list[Reporting]:
    """Return the open balancers of this Trio run, in the order in which they were opened."""
    try:
        return _balancers.get()
    except LookupError:
        balancers: list[Reporting] = []
        _balancers.set(balancers)
        return balancers


def states_of(endpoints: Sequence[EndpointStatistics]) -> dict[str, int]:
    """Count endpoints by state."""
    counts: dict[str, int] = {}
    for endpoint in endpoints:
        counts[endpoint.state] = counts.get(endpoint.state, 0) + 1
    return counts
