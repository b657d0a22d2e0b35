"""Limits that share their task's cancel scope: no different from scopes of their own, but cheaper."""

from contextlib import AsyncExitStack, contextmanager
from math import sqrt

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from linkerd_proxy.core.expiry import open_expiry
from linkerd_proxy.core.kept_scope import KeptScope, kept_scope


async def test_pieces_of_work_one_after_the_other_use_one_scope(autojump_clock):
    async with open_expiry(2) as expiry:
        with KeptScope() as kept:
            assert repr(kept) == "<KeptScope unused>"
            scopes = set()
            for _ in range(3):
                with expiry.limiting():
                    scopes.add(kept._scope)
                    assert repr(kept) == "<KeptScope in use>"
                    await trio.sleep(1.5)
            assert repr(kept) == "<KeptScope at rest>"
            assert len(scopes) == 1


async def test_one_that_expired_leaves_the_next_a_fresh_scope(autojump_clock):
    async with open_expiry(2) as expiry:
        with KeptScope():
            for seconds in (5, 1, 5, 5, 1):
                with expiry.limiting() as block:
                    await trio.sleep(seconds)
                assert block.cancelled_caught == (seconds == 5)
                await trio.sleep(10)  # nothing is cancelled here any more


async def test_one_that_was_done_when_its_time_was_up_is_not_cut_short(autojump_clock):
    async with open_expiry(2) as expiry:
        with KeptScope():
            with expiry.limiting() as block, trio.CancelScope(shield=True):
                await trio.sleep(3)
            assert (block.has_expired, block.cancelled_caught) == (True, False)
            await trio.sleep(1)


async def test_a_task_that_inherits_the_context_does_not_take_its_parents_scope(autojump_clock):
    async def child():
        assert kept_scope() is None
        with expiry.limiting() as block:
            await trio.sleep_forever()
        assert block.cancelled_caught

    async with open_expiry(2) as expiry, trio.open_nursery() as elsewhere:
        with KeptScope() as kept:
            assert kept_scope() is kept
            elsewhere.start_soon(child)
            await trio.sleep(1)
            async with trio.open_nursery() as nursery:
                assert kept_scope() is None
                nursery.start_soon(child)
        assert kept_scope() is None


async def test_a_cancellation_from_outside_at_the_same_time_passes(autojump_clock):
    async with open_expiry(2) as expiry:
        with trio.move_on_after(2) as outside, KeptScope(), expiry.limiting() as block:
            await trio.sleep_forever()
        assert outside.cancelled_caught
        assert not block.cancelled_caught


async def test_an_error_beside_the_cancellation_comes_out_and_the_limit_around_still_holds(autojump_clock):
    async def fail_when_cancelled():
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("mine")

    async def two_tasks():
        with short.limiting():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_when_cancelled)
                nursery.start_soon(trio.sleep_forever)

    async with open_expiry(2) as short, open_expiry(5) as long:
        with KeptScope(), long.limiting() as outer:
            with pytest.raises(ExceptionGroup) as caught:
                await two_tasks()
            assert [type(error) for error in caught.value.exceptions] == [ValueError]
            await trio.sleep_forever()
        assert outer.cancelled_caught
        assert trio.current_time() == pytest.approx(5)


# --- the same as scopes of their own -----------------------------------------------------------

# No two sums of these are equal by chance: a scope of trio's own and a limit that end at once may end in either order.
_LIMITS = [sqrt(prime) for prime in (2, 3, 5, 7)]
_SCOPES = [sqrt(prime) - 1 for prime in (11, 13)]
_SLEEPS = [sqrt(prime) - 2 for prime in (17, 19, 23)]

_steps = st.recursive(
    st.tuples(st.just("sleep"), st.sampled_from([0.0, *_SLEEPS])),
    lambda inner: st.one_of(
        st.tuples(st.just("limit"), st.sampled_from(_LIMITS), st.lists(inner, max_size=4)),
        st.tuples(st.just("scope"), st.sampled_from(_SCOPES), st.lists(inner, max_size=4)),
        st.tuples(st.just("task"), st.none(), st.lists(inner, max_size=4)),
    ),
    max_leaves=12,
)


class _Played:
    """Plays steps, and writes down when each ended and whether its time was up."""

    def __init__(self, limit):
        self.limit = limit
        self.seen = []

    async def steps(self, steps, where=()):
        for number, step in enumerate(steps):
            await self.step(step, (*where, number))

    async def step(self, step, where):
        kind, seconds, *inner = step
        if kind == "sleep":
            await trio.sleep(seconds)
        elif kind == "task":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.steps, inner[0], where)
                await self.steps(inner[0], (*where, "beside"))
        else:
            with self.limit(seconds) if kind == "limit" else trio.move_on_after(seconds) as scope:
                await self.steps(inner[0], where)
            self.seen.append((where, scope.cancelled_caught, round(trio.current_time(), 6)))


@given(st.lists(_steps, max_size=6))
@settings(max_examples=300, deadline=None)
def test_limits_end_what_scopes_would_end_and_when(steps):
    async def with_scopes():
        played = _Played(trio.move_on_after)
        await played.steps(steps)
        return sorted(played.seen, key=str)

    async def with_limits(place):
        async with AsyncExitStack() as exits:
            expiries = {seconds: await exits.enter_async_context(open_expiry(seconds)) for seconds in _LIMITS}
            played = _Played(lambda seconds: expiries[seconds].limiting())
            with place():
                await played.steps(steps)
            return sorted(played.seen, key=str)

    @contextmanager
    def nothing():
        yield

    def run(*what):
        return trio.run(*what, clock=trio.testing.MockClock(autojump_threshold=0))

    expected = run(with_scopes)
    assert run(with_limits, KeptScope) == expected
    assert run(with_limits, nothing) == expected
