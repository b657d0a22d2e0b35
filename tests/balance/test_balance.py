"""Work goes to an endpoint that is ready, and waits for one."""

import random
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from linkerd_proxy.balance.balance import Balance
from linkerd_proxy.balance.balancer import Balancer
from linkerd_proxy.balance.breaker import Breaker
from linkerd_proxy.balance.picks import P2c, RoundRobin
from linkerd_proxy.balance.statistics import current_balancers
from linkerd_proxy.core.endpoint import Endpoint
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.discover.static import Static
from linkerd_proxy.errors import ConnectFailed, FailFast, InvalidConfiguration, Overloaded
from linkerd_proxy.http.client import Client
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.tcp.connect import Connect
from tests.balance.origins import Fleet, Known, ask, end, known, takes


def balance(resolve, fleet, **options):
    return Balance(resolve, fleet.replica, **{"dice": random.Random(1), **options})


def states(balancer) -> dict[int, str]:
    assert isinstance(balancer, Balancer)
    return {one.endpoint.address.port: one.state for one in balancer.statistics().endpoints}


async def test_every_endpoint_has_its_share(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour = dict.fromkeys((1, 2, 3), takes(0.01))
    async with opened(balance(known(1, 2, 3), fleet)) as service:
        for _ in range(300):
            assert await ask(service) == 200
    assert all(fleet.served[port] > 90 for port in (1, 2, 3))
    assert fleet.opened == fleet.closed == {1: 1, 2: 1, 3: 1}


async def test_work_waits_until_an_endpoint_is_known_and_open(autojump_clock) -> None:
    fleet, resolve = Fleet(), Known()
    async with opened(balance(resolve, fleet)) as service, trio.open_nursery() as nursery:
        nursery.start_soon(ask, service)
        await trio.sleep(2)
        assert repr(service) == "<Balancer over 0 endpoints: there are none>"
        assert service.statistics().waiting == 1
        resolve.published.publish([end(1)])
    assert trio.current_time() == pytest.approx(2)
    assert fleet.served == {1: 1}


async def test_each_part_tells_how_it_is(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[2] = "refused"
    async with opened(balance(known(1, 2), fleet, name="web", pick=RoundRobin())) as service:
        for _ in range(4):
            assert await ask(service) == 200
        pool = service._pool
        assert repr(service) == "<Balancer web over 2 endpoints: 1 ready, 1 out>"
        assert repr(pool) == "<Pool of 2 endpoints: 1 ready, 1 out>"
        assert repr(pool.roster) == "<Roster of 2 endpoints: 1 ready, 1 out>"
        assert repr(pool.health) == "<Health of balancer web: 1 ready, 1 out>"
        assert repr(pool.choice) == "<Choice among 2 endpoints>"
        assert repr(pool.queue) == "<Queue of 0>"


async def test_work_waits_for_the_only_endpoint_until_it_can_be_reached(autojump_clock) -> None:
    # linkerd2-proxy: outbound_balancer_waits_for_ready_endpoint, retry_reconnect_errors
    fleet = Fleet()
    fleet.behaviour[1] = "refused"
    async with opened(balance(known(1), fleet)) as service, trio.open_nursery() as nursery:
        nursery.start_soon(ask, service)
        await trio.sleep(1)
        fleet.behaviour[1] = 200
    assert 1 < trio.current_time() < 2
    assert fleet.served[1] == 5  # at 0, 0.1, 0.3, 0.7 and 1.5 s, jitter aside


async def test_what_was_not_sent_goes_to_another_endpoint_at_once(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = "refused"
    async with opened(balance(known(1, 2), fleet)) as service:
        for _ in range(50):
            assert await ask(service) == 200
        assert states(service) == {1: "out", 2: "ready"}
    assert fleet.served == {1: 1, 2: 50}
    assert trio.current_time() == 0
    assert current_registry().counter("balancer_redirected_total", "", balancer="").value == 1


async def test_when_no_endpoint_is_ready_for_too_long_all_work_fails_at_once_until_one_is(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = "refused"
    async with opened(balance(known(1), fleet)) as service:
        with pytest.raises(FailFast) as caught:
            await ask(service)
        assert trio.current_time() == pytest.approx(3)
        assert caught.value.status == 504
        assert str(caught.value).startswith("Balance: no endpoint is ready: 1 out after ")
        assert caught.value.__notes__ == [
            "the last that was tried: connecting failed: Connection refused (endpoint 1); "
            "check that the upstream listens on that address"
        ]
        with pytest.raises(FailFast):
            await ask(service)
        assert trio.current_time() == pytest.approx(3)
        assert service.statistics().failing_fast
        fleet.behaviour[1] = 200
        await trio.sleep(0.5)  # until the backoff is over
        assert await ask(service) == 200
        assert not service.statistics().failing_fast
        assert states(service) == {1: "ready"}


async def test_all_who_wait_fail_at_the_same_time(autojump_clock) -> None:
    async with opened(balance(Known(), Fleet())) as service, trio.open_nursery() as nursery:
        failed: list[float] = []

        async def wait() -> None:
            with pytest.raises(FailFast):
                await ask(service)
            failed.append(trio.current_time())

        nursery.start_soon(wait)
        await trio.sleep(2)
        nursery.start_soon(wait)
    assert failed == [pytest.approx(3), pytest.approx(3)]
    assert current_registry().counter("balancer_failfast_total", "", balancer="").value == 1


async def test_a_name_that_does_not_exist_fails_at_once(autojump_clock) -> None:
    resolve = Known()
    async with opened(balance(resolve, Fleet())) as service, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(FailFast, match="no such name"):
                await ask(service)

        nursery.start_soon(wait)
        await trio.sleep(1)
        resolve.published.withdraw("no such name")
        await trio.testing.wait_all_tasks_blocked()
        await wait()
        assert trio.current_time() == pytest.approx(1)
        resolve.published.publish([end(1)])
        await trio.testing.wait_all_tasks_blocked()
        assert await ask(service) == 200


async def test_a_full_queue_refuses(autojump_clock) -> None:
    async with opened(balance(Known(), Fleet(), queue=1)) as service, trio.open_nursery() as nursery:
        nursery.start_soon(ask, service)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Overloaded, match=r"1 wait for an endpoint already \(Balance\(queue=...\)\)"):
            await ask(service)
        nursery.cancel_scope.cancel()


async def test_waiting_work_that_is_cancelled_leaves_the_queue_and_loses_no_turn(autojump_clock) -> None:
    fleet, resolve = Fleet(), known(1)
    fleet.behaviour[1] = "refused"
    async with opened(balance(resolve, fleet)) as service, trio.open_nursery() as nursery:
        nursery.start_soon(ask, service)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.05):
            await ask(service)
        assert service.statistics().waiting == 1
        fleet.behaviour[1] = 200
    assert fleet.served[1] == 2


async def test_an_endpoint_that_is_removed_finishes_its_work_and_closes(autojump_clock) -> None:
    fleet, resolve = Fleet(), known(1, 2)
    fleet.behaviour[1] = takes(5)
    fleet.behaviour[2] = takes(5)
    async with opened(balance(resolve, fleet, pick=RoundRobin())) as service, trio.open_nursery() as nursery:
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(4):
            nursery.start_soon(ask, service)
        await trio.sleep(1)
        resolve.published.publish([end(2)])
        await trio.sleep(1)
        assert states(service) == {1: "leaving", 2: "ready"}
        assert fleet.closed[1] == 0
        assert await ask(service) == 200
        await trio.testing.wait_all_tasks_blocked()
        assert fleet.closed[1] == 1
        assert states(service) == {2: "ready"}
    assert fleet.served == {1: 2, 2: 3}


async def test_an_endpoint_that_comes_back_while_it_leaves_is_a_new_one(autojump_clock) -> None:
    fleet, resolve = Fleet(), known(1)
    fleet.behaviour[1] = takes(5)
    async with opened(balance(resolve, fleet)) as service, trio.open_nursery() as nursery:
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, service)
        await trio.sleep(1)
        resolve.published.publish([])
        await trio.sleep(1)
        resolve.published.publish([end(1)])
        await ask(service)
    assert (fleet.opened[1], fleet.closed[1]) == (2, 2)


async def test_a_new_weight_keeps_the_stack_and_a_new_identity_makes_another() -> None:
    fleet, resolve = Fleet(), known(1)
    async with opened(balance(resolve, fleet)):
        await trio.testing.wait_all_tasks_blocked()
        resolve.published.publish([end(1, weight=3)])
        await trio.testing.wait_all_tasks_blocked()
        assert (fleet.opened[1], fleet.closed[1]) == (1, 0)
        resolve.published.publish([end(1, weight=3, identity="web.default")])
        await trio.testing.wait_all_tasks_blocked()
        assert (fleet.opened[1], fleet.closed[1]) == (2, 1)


async def test_endpoints_without_weight_get_nothing(autojump_clock) -> None:
    fleet, resolve = Fleet(), Known()
    resolve.published.publish([end(1, weight=0), end(2)])
    async with opened(balance(resolve, fleet)) as service:
        for _ in range(20):
            await ask(service)
        resolve.published.publish([end(1, weight=0)])
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(FailFast, match="no endpoint is ready: 1 without weight"):
            await ask(service)
    assert fleet.served == {2: 20}


async def test_endpoints_come_and_go_a_hundred_times_a_second_and_cost_no_work(autojump_clock) -> None:
    fleet, resolve = Fleet(), Known()
    resolve.published.publish([end(port) for port in range(1, 51)])
    for port in range(1, 400):
        fleet.behaviour[port] = takes(0.02)
    async with opened(balance(resolve, fleet)) as service:
        async with trio.open_nursery() as nursery:
            for first in range(1, 300):
                resolve.published.publish([end(port) for port in range(first, first + 50)])
                for _ in range(3):
                    nursery.start_soon(ask, service)
                await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked()
        assert len(states(service)) == 50
        assert sum(fleet.served.values()) == 897
        assert sum(fleet.opened.values()) - sum(fleet.closed.values()) == 50
    assert fleet.opened == fleet.closed


async def test_thousands_of_endpoints_are_opened_and_closed() -> None:
    fleet = Fleet()
    resolve = known(*range(1, 3001))
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with opened(balance(resolve, fleet)) as service:
        await ask(service)
        await trio.testing.wait_all_tasks_blocked()
        resolve.published.publish([end(1)])
        await trio.testing.wait_all_tasks_blocked()
        assert states(service) == {1: "ready"}
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert sum(fleet.closed.values()) == 3000


async def test_a_stack_that_fails_to_open_is_that_endpoint_s_trouble_alone(autojump_clock, caplog) -> None:
    fleet = Fleet()
    broken = [True]

    def replica(endpoint: Endpoint):
        if endpoint.address.port == 1 and broken:
            raise OSError("no certificate")
        return fleet.replica(endpoint)

    async with opened(Balance(known(1, 2), replica, dice=random.Random(1))) as service:
        for _ in range(5):
            assert await ask(service) == 200
        assert states(service) == {1: "out", 2: "ready"}
        assert "balancer: the stack of 10.0.0.1:1 failed: no certificate" in caplog.text
        broken.clear()
        await trio.sleep(1)
        assert states(service) == {1: "ready", 2: "ready"}


async def test_it_is_counted(autojump_clock) -> None:
    registry = current_registry()
    fleet = Fleet()
    fleet.behaviour[1] = "refused"
    async with opened(balance(known(1, 2), fleet, name="web")) as service:
        assert current_balancers() == [service]
        for _ in range(10):
            await ask(service)
        registry.collect()
        assert registry.gauge("balancer_endpoints", "", balancer="web", state="ready").value == 1
        assert registry.gauge("balancer_endpoints", "", balancer="web", state="out").value == 1
        assert registry.counter("balancer_updates_total", "", balancer="web", op="Reset").value == 1
        assert registry.counter("balancer_ejections_total", "", balancer="web", reason="connect").value == 1
        one, two = service.statistics().endpoints
        assert (one.picked, one.failed, one.ejections) == (1, 1, 1)
        assert (two.picked, two.failed, two.in_flight) == (10, 0, 0)
    registry.collect()
    assert registry.gauge("balancer_endpoints", "", balancer="web", state="ready").value == 0
    assert current_balancers() == []


async def test_unreachable_until_the_time_is_up_is_the_last_error_itself(autojump_clock) -> None:
    fleet = Fleet()
    for port in (1, 2, 3, 4):

        async def blackhole(_, port=port):
            await trio.sleep(1)
            return ConnectFailed("connecting took too long", endpoint=str(port))

        fleet.behaviour[port] = blackhole
    async with opened(balance(known(1, 2, 3, 4), fleet)) as service:
        with pytest.raises(ConnectFailed):
            await ask(service)
    assert trio.current_time() == pytest.approx(3)
    assert len(set(fleet.log)) == 3


async def test_a_connection_that_its_service_has_touched_is_not_handed_on() -> None:
    calls: list[int] = []

    async def other(work: str) -> None:
        calls.append(1)
        raise ConnectFailed("refused")

    @dataclass(frozen=True, slots=True)
    class Plain(Stack[str]):
        @asynccontextmanager
        async def open(self):
            yield other

    async with opened(Balance[str](known(1, 2), lambda _: Plain())) as service:
        with pytest.raises(ConnectFailed, match="refused"):
            await service("work")
    assert calls == [1]


def test_it_draws_the_stack_of_an_endpoint() -> None:
    stack = Balance(Static("10.0.0.1:80"), lambda e: Client() | Connect(e.address), name="web", pick=P2c(penalty=0))
    assert str(stack).splitlines() == [
        "Balance(Static('10.0.0.1:80'), pick=P2c(default_rtt=0.03, decay=10.0, penalty=0, peak=False), name='web')",
        "└─ each endpoint: Client()",
        "     Connect('10.0.0.1:80')",
    ]

    def picky(endpoint: Endpoint):
        raise KeyError(endpoint.labels["version"])

    assert str(Balance(Static("10.0.0.1:80"), picky)).startswith("Balance(Static('10.0.0.1:80'), <function")


@pytest.mark.parametrize(
    "options", [{"queue": -1}, {"failfast": -1}, {"failfast": float("inf")}, {"spill": 0.5}, {"slow_start": -1}]
)
def test_impossible_settings_are_refused(options) -> None:
    with pytest.raises(InvalidConfiguration, match=next(iter(options))):
        Balance(Static("a:1"), Fleet().replica, **options)


async def test_a_breaker_is_a_choice(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = 500
    for breaker, state in ((None, "ready"), (Breaker(floor=0), "out")):
        async with opened(balance(known(1), fleet, breaker=breaker)) as service:
            for _ in range(7):
                assert await ask(service) == 500
            assert states(service) == {1: state}
