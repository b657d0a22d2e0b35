"""What the live view shows beside metrics: endpoints of balancers and the last failures, of one process or more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import trio

from linkerd_proxy.balance.statistics import current_balancers
from linkerd_proxy.core.contain import FailureLog

__all__ = ["Observed", "SeenEndpoint", "SeenFailure", "observed_here", "together"]

_FAILURES = 20  # that are kept when those of several processes are put together


@dataclass(frozen=True, slots=True)
class SeenEndpoint:
    """One endpoint of a balancer, as :class:`~linkerd_proxy.balance.statistics.EndpointStatistics` tells."""

    balancer: str
    address: str
    identity: str
    state: str
    in_flight: int
    rtt: float
    picked: int
    failed: int


@dataclass(frozen=True, slots=True)
class SeenFailure:
    """One of the last failures, ``ago`` so many seconds."""

    ago: float
    code: str
    text: str
    peer: str


@dataclass(frozen=True, slots=True)
class Observed:
    """What a process tells; the oldest failure first."""

    endpoints: tuple[SeenEndpoint, ...] = ()
    failures: tuple[SeenFailure, ...] = ()

    def as_data(self) -> dict[str, Any]:
        """Return it as what JSON can say."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Observed:
        """Return what :meth:`as_data` made."""
        endpoints = tuple(SeenEndpoint(**one) for one in data["endpoints"])
        return cls(endpoints, tuple(SeenFailure(**one) for one in data["failures"]))


def observed_here() -> Observed:
    """Return what this Trio run tells."""
    now = trio.current_time()
    told = [balancer.statistics() for balancer in current_balancers()]
    endpoints = [
        SeenEndpoint(
            balancer.name,
            str(one.endpoint.address),
            one.endpoint.identity or "",
            one.state,
            one.in_flight,
            one.rtt,
            one.picked,
            one.failed,
        )
        for balancer in told
        for one in balancer.endpoints
    ]
    failures = [SeenFailure(now - one.at, one.code, one.text, one.peer) for one in FailureLog.of_this_run().recent]
    return Observed(tuple(endpoints), tuple(failures))


def together(parts: Iterable[Observed]) -> Observed:
    """Return what several processes tell as one: an endpoint that they share is one, its work is the sum.

    Its latency is the mean, by how much work each process gave it. Where they don't agree on its state, it is the one
    that is not ``ready``, and in how many of them.
    """
    parts = list(parts)
    shared: dict[tuple[str, str], list[SeenEndpoint]] = {}
    for part in parts:
        for endpoint in part.endpoints:
            shared.setdefault((endpoint.balancer, endpoint.address), []).append(endpoint)
    failures = sorted((one for part in parts for one in part.failures), key=lambda one: -one.ago)
    return Observed(tuple(map(_one, shared.values())), tuple(failures[-_FAILURES:]))


def _one(seen: list[SeenEndpoint]) -> SeenEndpoint:
    first = seen[0]
    if len(seen) == 1:
        return first
    picked = sum(one.picked for one in seen)
    weights = [one.picked for one in seen] if picked else [1] * len(seen)
    return SeenEndpoint(
        first.balancer,
        first.address,
        next((one.identity for one in seen if one.identity), ""),
        _state([one.state for one in seen]),
        sum(one.in_flight for one in seen),
        sum(one.rtt * weight for one, weight in zip(seen, weights, strict=True)) / sum(weights),
        picked,
        sum(one.failed for one in seen),
    )


def _state(states: list[str]) -> str:
    others = [state for state in states if state != "ready"]
    if not others or len(set(states)) == 1:
        return states[0]
    state = max(sorted(set(others)), key=others.count)
    return f"{state} in {others.count(state)} of {len(states)} workers"
