"""Which endpoint a request goes to that may be asked again, or is being asked again."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from random import Random

from typing_extensions import TypeVar

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.balance.replica import Replica
from linkerd_proxy.core.attempt import Attempt

__all__ = ["choose_elsewhere", "choose_probe"]

A = TypeVar("A")

_PATIENCE = 1.0  # seconds that an endpoint on probation waits for a request that can be spared; own figure


def choose_probe(
    probation: Mapping[Replica[A], float], attempt: Attempt | None, ready: int, now: float
) -> Replica[A] | None:
    """Return the endpoint that shall be probed with this work, or None if the work is too dear for that.

    A probe may well fail. So it should be a request that another try can make up for, and no second try. If none such
    comes for a while any first one must do, for otherwise nobody learns that the endpoint is well again; so it must
    where nothing of it is lost (there was no connection), or where no endpoint is ready.

    Args:
        probation: Those that wait for a probe, longest first, and since when.
        attempt: What is known of the work's tries, if it is an exchange that may have several.
        ready: How many endpoints are ready.
        now: The time.
    """
    replica, since = next(iter(probation.items()))
    if attempt is None or not ready or attempt.spare:
        return replica
    if attempt.number:
        return None
    return replica if replica.reason == "connect" or now - since >= _PATIENCE else None


def choose_elsewhere(
    replicas: Iterable[Replica[A]], tried: Collection[AnyAddress], now: float, dice: Random
) -> Replica[A] | None:
    """Return the less loaded of two ready endpoints where the work has not been, or None if it has been everywhere.

    Those of the own zone come first. It takes a look at every endpoint, which is rare: only if the pick was one that
    the work knows.
    """
    others = [one for one in replicas if one.state == "ready" and one.weight > 0 and one.endpoint.address not in tried]
    others = [one for one in others if one.near] or others
    if len(others) > 2:
        others = dice.sample(others, 2)
    return min(others, key=lambda one: one.load(now), default=None)
