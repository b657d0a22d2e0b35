import trio
import trio.testing

from linkerd_proxy.http.deadlines import open_background, open_deadlines


async def test_a_deadline_fires_once_and_at_most_a_second_late(autojump_clock):
    fired = []
    async with open_deadlines() as deadlines:
        entry = deadlines.add(lambda: fired.append(trio.current_time()))
        started = trio.current_time()
        entry.deadline = started + 3.5
        await trio.sleep(20)
        assert len(fired) == 1
        assert 3.5 <= fired[0] - started <= 4.5
        entry.deadline = trio.current_time() + 1
        await trio.sleep(3)
        assert len(fired) == 2


async def test_a_moved_or_removed_deadline_does_not_fire(autojump_clock):
    fired = []
    async with open_deadlines() as deadlines:
        moved = deadlines.add(lambda: fired.append("moved"))
        removed = deadlines.add(lambda: fired.append("removed"))
        for _ in range(10):
            moved.deadline = removed.deadline = trio.current_time() + 2
            await trio.sleep(1)
        deadlines.remove(removed)
        deadlines.remove(removed)
        moved.deadline = float("inf")
        await trio.sleep(10)
    assert fired == []


async def test_one_callback_may_spare_another(autojump_clock):
    fired = []
    async with open_deadlines() as deadlines:
        entries = []

        def fire():
            fired.append(True)
            for entry in entries:
                entry.deadline = float("inf")

        entries += [deadlines.add(fire), deadlines.add(fire)]
        for entry in entries:
            entry.deadline = trio.current_time()
        deadlines.sweep()
    assert fired == [True]


async def test_the_sweeper_sleeps_while_there_is_nothing_to_sweep(mock_clock):
    async with open_deadlines() as deadlines:
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
        entry = deadlines.add(lambda: None)
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline <= 1
        assert repr(deadlines) == "<Deadlines with 1 entries>"
        deadlines.remove(entry)
        mock_clock.jump(1)
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
        assert len(deadlines) == 0


async def test_what_a_block_raises_comes_out_in_no_group():
    try:
        async with open_background() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise ValueError("mine")
    except ValueError as error:
        assert str(error) == "mine"  # noqa: PT017  # that it is no group is the point
