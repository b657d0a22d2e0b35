"""Whatever comes, goes, fails and is cancelled: no work is lost, no endpoint leaks, no count is wrong."""

import random

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from linkerd_proxy.balance.balance import Balance
from linkerd_proxy.balance.breaker import Breaker
from linkerd_proxy.balance.picks import LeastRequest, P2c, RoundRobin
from linkerd_proxy.balance.ring import Header, Ring
from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.core.stack import opened
from linkerd_proxy.errors import ConnectFailed, FailFast, UpstreamClosed
from tests.balance.origins import Fleet, Known, ask, end

PORTS = st.integers(1, 5)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.dictionaries(PORTS, st.sampled_from([0.0, 1.0, 2.0]), max_size=5)),
        st.tuples(st.just("behave"), PORTS, st.sampled_from([200, 500, 429, "refused", "closed"])),
        st.tuples(st.just("ask"), st.integers(1, 5), st.sampled_from([None, 0.05, 2.0])),
        st.tuples(st.just("sleep"), st.sampled_from([0.05, 0.5, 3.0, 30.0])),
        st.tuples(st.just("gone")),
    ),
    max_size=40,
)
PICKS = st.sampled_from([P2c(), LeastRequest(), RoundRobin(), Ring(Header("x-user"))])


@settings(max_examples=150, deadline=None)
@given(STEPS, PICKS, st.sampled_from(["", "a"]), st.sampled_from([0.0, 5.0]), st.integers(0, 3))
def test_no_work_is_lost_and_nothing_leaks(steps, pick, zone, slow_start, seed) -> None:
    trio.run(run, steps, pick, zone, slow_start, seed, clock=trio.testing.MockClock(autojump_threshold=0))


async def run(steps, pick, zone, slow_start, seed) -> None:  # noqa: C901  # a script reads best in one piece
    fleet, resolve = Fleet(), Known()
    behaviour: dict[int, object] = {}
    asked, ended = 0, 0

    def behave(port: int):
        async def answer(_):
            await trio.sleep(0.1)
            what = behaviour.get(port, 200)
            return UpstreamClosed("closed") if what == "closed" else what

        return answer

    fleet.behaviour = {port: behave(port) for port in range(1, 6)}
    breaker = Breaker(consecutive=2, success_rate=0.5, backoff=Backoff(1, 10, 0.5), floor=0.3)
    stack = Balance(
        resolve, fleet.replica, pick=pick, breaker=breaker, zone=zone, slow_start=slow_start, dice=random.Random(seed)
    )
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with opened(stack) as service:

        async def one(limit: float | None, user: int) -> None:
            nonlocal ended
            try:
                with trio.move_on_after(limit if limit is not None else 100):
                    assert await ask(service, headers=[("x-user", str(user))]) in (200, 429, 500)
            except (FailFast, ConnectFailed, UpstreamClosed):
                pass
            ended += 1

        async with trio.open_nursery() as nursery:
            for step in steps:
                match step:
                    case "set", weights:
                        zones = {port: "a" if port % 2 else "b" for port in weights}
                        resolve.published.publish(
                            [end(port, weight=weight, zone=zones[port]) for port, weight in weights.items()]
                        )
                    case "behave", port, what:
                        behaviour[port] = what
                    case "ask", count, limit:
                        for number in range(count):
                            asked += 1
                            nursery.start_soon(one, limit, number)
                    case "sleep", seconds:
                        await trio.sleep(seconds)
                    case ("gone",):
                        resolve.published.withdraw("gone")
                check(service)
        check(service)
        assert ended == asked
        await trio.testing.wait_all_tasks_blocked()
        endpoints = service.statistics().endpoints
        assert all((one.in_flight, one.pending) == (0, 0) for one in endpoints)
        assert all(one.state != "leaving" for one in endpoints)
        assert service._pool._tally.active == 0
        assert sum(fleet.opened.values()) - sum(fleet.closed.values()) == len(endpoints)
        # What is well again is used again, however bad it was.
        behaviour.clear()
        resolve.published.publish([end(1), end(2)])
        await trio.sleep(100)
        assert await ask(service) == 200
    assert fleet.opened == fleet.closed
    assert trio.lowlevel.current_statistics().tasks_living == tasks


def check(service) -> None:
    """The roster's own counts agree with the states of its endpoints."""
    roster = service._pool.roster
    weighted = [one for one in roster.replicas.values() if one.weight > 0]
    assert roster.ready == sum(one.state == "ready" for one in weighted)
    assert set(roster.probation) == {one for one in weighted if one.state == "probation"}
    assert roster.out == sum(one.state in {"out", "probation", "probing"} for one in roster.replicas.values())
    for one in (*roster.replicas.values(), *roster.leaving):
        assert 0 <= one.pending <= one.active
