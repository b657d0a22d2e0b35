"""The retry budget: retries are a share of the requests, so that they can't make an overload worse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from linkerd_proxy.core.attempt import Attempt
from linkerd_proxy.core.shared import Resource
from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["Account", "Budget"]

_SLOTS = 10  # as in Linkerd: what was paid in expires in steps of a tenth of the ttl
_MOST_PER_SECOND = 2**31 - 1
_WHOLE = 1 - 1e-9  # what a sum of floats loses must not cost the last whole retry


@dataclass(frozen=True, slots=True)
class Budget(Resource["Account"]):
    """How many retries there may be: a share of the requests of late, and a few in any case.

    Each request pays in ``retry_ratio`` retries, which can be used for ``ttl`` seconds; beside these there are
    ``min_retries_per_second``, so that a service with few requests can be retried at all. A budget that is *named* in
    several layers is one, which all of them share: a request pays in once, however many of them it passes, and how
    often.

    Args:
        retry_ratio: Retries for each request, from 0 to 1000 (0.2: one retry for five requests).
        min_retries_per_second: Retries a second that need no requests, from 0.
        ttl: Seconds for which what was paid in counts, from 1 to 60.

    Source: linkerd2-proxy, linkerd/app/outbound/src/http/retry.rs and the bounds in linkerd/service-profiles; the
    defaults are those of Linkerd's ServiceProfile documentation.
    """

    retry_ratio: float = 0.2
    min_retries_per_second: float = 10.0
    ttl: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.retry_ratio <= 1000:
            raise InvalidConfiguration(f"Budget(retry_ratio={self.retry_ratio!r}): give a ratio from 0 to 1000")
        if not 0 <= self.min_retries_per_second <= _MOST_PER_SECOND:
            raise InvalidConfiguration(
                f"Budget(min_retries_per_second={self.min_retries_per_second!r}): give 0 to {_MOST_PER_SECOND}"
            )
        if not 1 <= self.ttl <= 60:
            raise InvalidConfiguration(f"Budget(ttl={self.ttl!r}): give 1 to 60 seconds")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Account]:
        """Yield the account."""
        yield Account(self)


class Account:
    """An open :class:`Budget`: what is in it now."""

    __slots__ = ("_budget", "_ends", "_index", "_paid", "_ratio", "_reserve", "_slot", "_slots")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._ratio = budget.retry_ratio
        self._reserve = budget.min_retries_per_second * budget.ttl
        self._slot = budget.ttl / _SLOTS
        self._slots = [0.0] * _SLOTS
        self._paid = 0.0
        self._index = 0
        self._ends = trio.current_time() + self._slot

    @property
    def balance(self) -> float:
        """How many retries could be made now, one after the other."""
        self._expire(trio.current_time())
        return max(0.0, round(self._reserve + self._paid, 9))

    def covers(self, now: float) -> bool:
        """Whether there is a retry in it, for somebody who knows what time it is."""
        if now >= self._ends:
            self._expire(now)
        return self._reserve + self._paid >= _WHOLE

    def pay(self, attempt: Attempt, now: float) -> None:
        """Pay in for an exchange, once: neither its further tries nor other layers with this budget count for more."""
        if self not in attempt.paid:
            attempt.paid.append(self)
            self.deposit(now)

    def deposit(self, now: float) -> None:
        """Pay in for one request, which comes now."""
        if now >= self._ends:
            self._expire(now)
        self._slots[self._index] += self._ratio
        self._paid += self._ratio

    def withdraw(self) -> bool:
        """Take out one retry; return whether there was one."""
        if not self.covers(trio.current_time()):
            return False
        self._slots[self._index] -= 1
        self._paid -= 1
        return True

    def _expire(self, now: float) -> None:
        """Forget what was paid in and taken out longer ago than the ttl."""
        if now < self._ends:
            return
        steps = 1 + int((now - self._ends) / self._slot)
        for _ in range(min(steps, _SLOTS)):
            self._index = (self._index + 1) % _SLOTS
            self._slots[self._index] = 0.0
        self._paid = sum(self._slots)
        self._ends += steps * self._slot
        if self._ends <= now:  # the division may round up to a step that is not over yet
            self._ends = now + self._slot

    def __repr__(self) -> str:
        return f"<Account with {self.balance:.1f} retries of {self._budget!r}>"
