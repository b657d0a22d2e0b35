"""One task waits, and is woken by whoever has something for it."""

import trio
import trio.testing

from linkerd_proxy.core.waiter import Waiter


async def test_it_wakes_the_one_that_waits_and_nobody_else():
    waiter, woken = Waiter(), []
    waiter.wake()  # nobody waits: nothing is kept for later

    async def waits():
        await waiter.wait()
        woken.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits)
        await trio.testing.wait_all_tasks_blocked()
        assert woken == []
        waiter.wake()
        waiter.wake()
        await trio.testing.wait_all_tasks_blocked()
        assert woken == [True]


async def test_a_cancelled_one_waits_no_more(autojump_clock):
    waiter = Waiter()
    with trio.CancelScope() as scope:
        scope.cancel()
        await waiter.wait()
    assert scope.cancelled_caught
    waiter.wake()
    with trio.move_on_after(0) as scope:
        await waiter.wait()
    assert scope.cancelled_caught
