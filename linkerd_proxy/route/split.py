"""Stacks that spread work over several others: by weight, or to the first that is ready."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from math import isfinite
from random import Random
from typing import Any, Generic

from typing_extensions import TypeVar

from linkerd_proxy.core.ready import Ready, announce_ready, hearing_ready
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration, NoBackend
from linkerd_proxy.metrics.registry import current_registry

__all__ = ["Backend", "FirstAvailable", "Split"]

A = TypeVar("A", default=Exchange)

_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True)
class Backend(Generic[A]):
    """One of those that a :class:`Split` spreads work over.

    Args:
        stack: What serves its part.
        weight: Its part, relative to the others'; 0 for none.
        name: For the tree, and for ``split_total``, which counts the work of backends that have one.

    Raises:
        InvalidConfiguration: for a negative weight.
    """

    stack: Stack[A]
    weight: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        if not self.weight >= 0 or not isfinite(self.weight):
            raise InvalidConfiguration(f"Backend(weight={self.weight!r}): give a number from 0 up")


@dataclass(frozen=True, slots=True, repr=False)
class Split(Stack[A]):
    """Spreads work over backends by their weights: requests, and connections or dials as well.

    Backends that announce that they are not ready (a ``Balance`` without an endpoint that is up) are left out, and the
    others get their part. If none is ready the choice is as if all were, and the chosen one's queue decides how long
    work waits. The parts are exact: after ``n`` pieces of work none is more than a few off.

    Args:
        backends: What it is spread over.
        dice: Where in its sequence a split begins, so that many proxies don't choose the same in step.

    Raises:
        InvalidConfiguration: if there are no backends.
        NoBackend: (when serving) if no backend has any weight (Gateway API: 500).
    """

    backends: Sequence[Backend[A]]
    dice: Random = field(default_factory=Random, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "backends", tuple(self.backends))
        if not self.backends:
            raise InvalidConfiguration("Split([]) has no backends: give at least one")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[A]]:
        """Open every backend that has a weight, and yield the live service."""
        weighted = [backend for backend in self.backends if backend.weight]
        async with _opened_all([backend.stack for backend in weighted]) as branches:
            registry = current_registry()
            counters = [
                registry.counter("split_total", "Work by the backend that a split chose", backend=backend.name)
                if backend.name
                else None
                for backend in weighted
            ]
            chooser = _Chooser([backend.weight for backend in weighted], branches, self.dice.random())

            async def service(work: A) -> None:
                if not weighted:
                    raise NoBackend(f"none of the {len(self.backends)} backends has any weight", layer="Split")
                index = chooser.choose()
                if (counter := counters[index]) is not None:
                    counter.value += 1
                await branches[index].service(work)

            yield service

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return the backends by name and weight."""
        return [(f"{one.name} {one.weight:g}".lstrip(), one.stack) for one in self.backends]

    def title(self) -> str:
        """Return the line without the backends."""
        return "Split()"


@dataclass(frozen=True, slots=True, repr=False)
class FirstAvailable(Stack[A]):
    """Sends all work to the first backend that is ready; if none is, to the first.

    Args:
        backends: In the order of preference. One that never announces whether it is ready always is.

    Raises:
        InvalidConfiguration: if there are no backends.
    """

    backends: Sequence[Stack[A]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "backends", tuple(self.backends))
        if not self.backends:
            raise InvalidConfiguration("FirstAvailable([]) has no backends: give at least one")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[A]]:
        """Open every backend, and yield the live service."""
        async with _opened_all(self.backends) as branches:

            async def service(work: A) -> None:
                chosen = next((branch for branch in branches if branch.is_ready()), branches[0])
                await chosen.service(work)

            yield service

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return the backends by their place."""
        return [(str(place), stack) for place, stack in enumerate(self.backends, 1)]

    def title(self) -> str:
        """Return the line without the backends."""
        return "FirstAvailable()"


class _Branch(Generic[A]):
    """One opened backend, and whether it is ready."""

    __slots__ = ("heard", "service")

    def __init__(self, service: Service[A], heard: list[Ready]) -> None:
        self.service = service
        self.heard = heard

    def is_ready(self) -> bool:
        """Whether one of those inside that may have to wait need not; True where there are none."""
        return not self.heard or any(ready() for ready in self.heard)


@asynccontextmanager
async def _opened_all(stacks: Sequence[Stack[A]]) -> AsyncIterator[list[_Branch[A]]]:
    """Open stacks, each heard for itself, and announce that they are ready if any of them is."""
    async with AsyncExitStack() as exits:
        branches: list[_Branch[A]] = []
        for stack in stacks:
            with hearing_ready() as heard:
                service = await exits.enter_async_context(opened(stack))
            branches.append(_Branch(service, heard))
        if branches and all(branch.heard for branch in branches):
            announce_ready(lambda: any(branch.is_ready() for branch in branches))
        yield branches


class _Chooser(Generic[A]):
    """Chooses among those that are ready, by weight.

    The points of a Weyl sequence with the golden ratio lie more evenly than dice would throw them, and so they do for
    every second, third, ... of them, so that no rhythm of the callers' falls in step with it as it would with a round
    robin.
    """

    __slots__ = ("_all", "_branches", "_point", "_sums", "_weights")

    def __init__(self, weights: list[float], branches: list[_Branch[A]], start: float) -> None:
        self._weights = weights
        self._branches = branches if any(branch.heard for branch in branches) else []
        self._point = start
        self._all = list(accumulate(weights))
        self._sums: dict[tuple[bool, ...], list[float]] = {}

    def choose(self) -> int:
        """Return the index of the next one."""
        self._point = point = (self._point + _GOLDEN) % 1.0
        sums = self._all
        if self._branches:
            sums = self._sums_of(tuple([branch.is_ready() for branch in self._branches]))
        # The last sum times a number below 1 may be rounded up to itself.
        return min(bisect_right(sums, point * sums[-1]), len(sums) - 1)

    def _sums_of(self, ready: tuple[bool, ...]) -> list[float]:
        if all(ready) or not any(ready):
            return self._all
        sums = self._sums.get(ready)
        if sums is None:
            if len(self._sums) >= 64:
                self._sums.clear()
            sums = list(accumulate(w if is_ready else 0.0 for w, is_ready in zip(self._weights, ready, strict=True)))
            self._sums[ready] = sums
        return sums
