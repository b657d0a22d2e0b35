"""How long to fuzz, and how: many examples of one strategy, each bounded in time, until the budget is used up."""

import os
from collections.abc import Callable
from datetime import timedelta
from time import perf_counter
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

SECONDS = float(os.environ.get("LINKERD_PROXY_FUZZ_SECONDS", "10"))
"""Seconds for each target."""
EACH = timedelta(milliseconds=200)
"""How long one example may take: a thousand times what it should, so that only a wrong complexity is found."""
_ROUND = 250

T = TypeVar("T")


def fuzz(strategy: SearchStrategy[T], check: Callable[[T], None]) -> int:
    """Check examples in rounds until the budget is used up, and return how many there were.

    Every round draws anew; what fails is made small, shown, and kept in hypothesis' database for the next run.
    """
    count = 0

    @settings(
        settings.get_profile("default"),  # not the steady one of the tests
        max_examples=_ROUND,
        deadline=EACH,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(strategy)
    def examples(value: T) -> None:
        nonlocal count
        count += 1
        check(value)

    end = perf_counter() + SECONDS
    while True:
        examples()
        if perf_counter() >= end:
            return count
