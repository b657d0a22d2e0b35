"""Lengths of time that many pieces of work share."""

import pytest
import trio
import trio.testing

from linkerd_proxy.core.expiry import open_expiry


async def test_blocks_expire_in_turn_each_when_its_time_is_up(autojump_clock) -> None:
    ended = []

    async def work(number: int, start: float) -> None:
        await trio.sleep(start)
        with expiry.limiting() as block:
            await trio.sleep_forever()
        assert block.cancelled_caught
        ended.append((number, trio.current_time()))

    async with open_expiry(2.5) as expiry, trio.open_nursery() as nursery:
        began = trio.current_time()
        for number in range(3):
            nursery.start_soon(work, number, number * 0.1)
    assert ended == [(number, pytest.approx(began + 2.5 + number * 0.1)) for number in range(3)]
    assert len(expiry) == 0


async def test_what_was_taken_out_goes_on(autojump_clock) -> None:
    async with open_expiry(1) as expiry:
        for _ in range(3):  # also after a rest, in which nothing was in
            with expiry.limiting() as block:
                await trio.sleep(0.6)
                block.lift()
                block.lift()
                await trio.sleep(5)
            assert not block.has_expired
        with expiry.limiting() as late:
            await trio.sleep_forever()
        assert late.cancelled_caught


async def test_work_that_ends_before_anybody_else_runs_wakes_for_nothing(autojump_clock) -> None:
    async with open_expiry(1) as expiry:
        await trio.testing.wait_all_tasks_blocked()
        with expiry.limiting():  # work that never waits
            pass
        await trio.testing.wait_all_tasks_blocked()
        with expiry.limiting() as block:
            assert repr(expiry) == "<Expiry of 1 blocks after 1 s>"
            await trio.sleep_forever()
        assert block.cancelled_caught


async def test_the_cancellation_says_that_it_is_a_deadlines(autojump_clock) -> None:
    async with open_expiry(1) as expiry:
        with expiry.limiting() as block:
            with pytest.raises(trio.Cancelled) as caught:
                await trio.sleep_forever()
            raise caught.value
        assert caught.value.source == "deadline"
        assert block.cancelled_caught
