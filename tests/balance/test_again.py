"""What a balancer does with requests that are asked more than once: other endpoints, and who may be a probe."""

import random

import pytest
import trio

from linkerd_proxy import Backoff, Balance, Breaker, Budget, Hedge, LeastRequest, P2c, Retry, RoundRobin, Timeout
from linkerd_proxy.balance.balancer import Balancer
from linkerd_proxy.balance.statistics import current_balancers
from linkerd_proxy.core.attempt import current_attempt
from linkerd_proxy.core.stack import opened
from linkerd_proxy.errors import ResponseTimeout, UpstreamClosed
from tests.balance.origins import Fleet, ask, end, known, takes

QUICK = Backoff(0.001, 0.01)
PLENTY = Budget(1, 1000)
PICKS = [P2c(), P2c(penalty=0), LeastRequest(), RoundRobin()]
SICK = Breaker(consecutive=1, backoff=Backoff(1.0, 60.0))


def balance(fleet: Fleet, *ports: int, seed: int = 1, **more) -> Balance:
    return Balance(known(*ports), fleet.replica, dice=random.Random(seed), **more)


def states() -> dict[int, str]:
    (balancer,) = current_balancers()
    assert isinstance(balancer, Balancer)
    return {one.endpoint.address.port: one.state for one in balancer.statistics().endpoints}


@pytest.mark.parametrize("pick", PICKS, ids=repr)
@pytest.mark.parametrize("seed", range(5))
async def test_a_further_try_goes_where_the_others_have_not_been(autojump_clock, pick, seed) -> None:
    fleet = Fleet()
    fleet.behaviour.update(dict.fromkeys((1, 2, 3), UpstreamClosed("gone")))
    stack = Retry(PLENTY, limit=3, backoff=QUICK) | balance(fleet, 1, 2, 3, 4, pick=pick, breaker=None, seed=seed)
    async with opened(stack) as service:
        for _ in range(20):
            fleet.log.clear()
            assert await ask(service) == 200
            assert len(set(fleet.log)) == len(fleet.log)


async def test_where_all_have_been_tried_any_will_do(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour.update({1: UpstreamClosed("gone"), 2: UpstreamClosed("gone")})
    async with opened(Retry(PLENTY, limit=5, backoff=QUICK) | balance(fleet, 1, 2, breaker=None)) as service:
        with pytest.raises(UpstreamClosed):
            await ask(service)
    assert sorted(fleet.served) == [1, 2]
    assert fleet.served.total() == 6


async def test_a_further_try_stays_in_its_zone_where_it_can(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour.update({1: UpstreamClosed("gone")})
    resolve = known()
    resolve.published.publish([end(1, zone="a"), end(2, zone="a"), *(end(port, zone="b") for port in range(3, 9))])
    stack = Balance(resolve, fleet.replica, zone="a", spill=1e6, breaker=None, pick=RoundRobin(), dice=random.Random(1))
    async with opened(Retry(PLENTY, backoff=QUICK) | stack) as service:
        for _ in range(20):
            assert await ask(service) == 200
    assert set(fleet.served) == {1, 2}


async def test_a_hedge_goes_elsewhere(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = takes(60)
    async with opened(Hedge(PLENTY, delay=0.1) | balance(fleet, 1, 2, breaker=None, pick=RoundRobin())) as service:
        began = trio.current_time()
        for _ in range(20):
            assert await ask(service) == 200
    assert fleet.served[1] >= 10
    assert fleet.served[2] == 20
    assert trio.current_time() - began < 2.1


@pytest.mark.parametrize("pick", PICKS, ids=repr)
@pytest.mark.parametrize("seed", range(5))
async def test_an_endpoint_that_hangs_costs_no_request_that_may_be_repeated(autojump_clock, pick, seed) -> None:
    fleet = Fleet()
    fleet.behaviour.update({2: takes(0.01), 3: takes(0.01)})
    stack = Timeout(2) | Retry(timeout=0.3) | balance(fleet, 1, 2, 3, pick=pick, seed=seed)
    answers = []

    async def client() -> None:
        answers.append(await ask(service))

    async with opened(stack) as service, trio.open_nursery() as nursery:
        for number in range(2000):
            if number == 200:
                fleet.behaviour[1] = takes(60)
            nursery.start_soon(client)
            await trio.sleep(0.005)
        assert states()[1] != "ready" or isinstance(pick, P2c)  # P2C hardly asks it, after the first that were slow
    assert answers == [200] * 2000


async def test_a_deadline_inside_is_a_failure_like_any_other(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = takes(60)
    stack = Balance(known(1, 2), lambda e: Timeout(0.3) | fleet.replica(e), pick=RoundRobin(), breaker=None)
    async with opened(Retry(PLENTY) | stack) as service:
        assert [await ask(service) for _ in range(10)] == [200] * 10
        failed = 0
        for _ in range(4):
            try:
                await ask(service, method="POST")
            except ResponseTimeout:
                failed += 1
        assert failed == 2


async def make_sick(service, fleet: Fleet) -> None:
    """Put the first endpoint out by its answers, and wait until it may be probed."""
    fleet.behaviour[1] = 503
    while states().get(1) != "out":
        await ask(service)
    fleet.served.clear()
    await trio.sleep(1.01)
    assert states()[1] == "probation"


async def test_what_cannot_be_repeated_is_no_probe_as_long_as_something_better_may_come(autojump_clock) -> None:
    fleet = Fleet()
    async with opened(Retry(PLENTY, backoff=QUICK) | balance(fleet, 1, 2, 3, breaker=SICK)) as service:
        await make_sick(service, fleet)
        for _ in range(10):
            assert await ask(service, method="POST") == 200
        assert not fleet.served[1]
        assert await ask(service) == 200  # by another one: it was the probe, and failed
        assert fleet.served[1] == 1
        await trio.sleep(2.01)
        assert await ask(service, method="POST") == 200
        await trio.sleep(1)  # nothing better has come
        assert await ask(service, method="POST") == 503
        assert fleet.served[1] == 2


async def test_inside_a_hedge_neither(autojump_clock) -> None:
    fleet = Fleet()
    async with opened(Hedge(PLENTY) | balance(fleet, 1, 2, 3, breaker=SICK)) as service:
        await make_sick(service, fleet)
        for _ in range(10):
            assert await ask(service, method="POST") == 200
        assert not fleet.served[1]


async def test_a_further_try_is_no_probe(autojump_clock) -> None:
    fleet = Fleet()
    stack = Retry(PLENTY, timeout=0.5, backoff=QUICK) | balance(fleet, 1, 2, 3, breaker=SICK)
    async with opened(stack) as service:
        fleet.behaviour[1] = 503
        while states().get(1) != "out":
            await ask(service)
        await trio.sleep(0.8)
        fleet.served.clear()
        slow = [60.0]
        fleet.behaviour.update(dict.fromkeys((2, 3), lambda e: takes(slow.pop() if slow else 0.0)(e)))
        assert await ask(service) == 200
        assert states()[1] == "probation"  # since the first try
        assert fleet.served == {2: 1, 3: 1}


async def test_where_nobody_else_is_ready_anybody_is_the_probe(autojump_clock) -> None:
    fleet = Fleet()
    breaker = Breaker(consecutive=1, backoff=Backoff(1.0, 60.0), floor=0)
    async with opened(Retry(PLENTY, backoff=QUICK) | balance(fleet, 1, breaker=breaker)) as service:
        fleet.behaviour[1] = 503
        assert await ask(service, method="POST") == 503
        fleet.behaviour[1] = 200
        assert await ask(service, method="POST") == 200


async def test_one_that_could_not_be_reached_is_probed_by_anybody(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = "refused"
    async with opened(Retry(PLENTY, backoff=QUICK) | balance(fleet, 1, 2, pick=RoundRobin())) as service:
        for _ in range(4):
            assert await ask(service, method="POST") == 200
        assert states()[1] == "out"
        await trio.sleep(0.2)
        fleet.behaviour[1] = 200
        assert await ask(service, method="POST") == 200
        assert states()[1] == "ready"


async def test_nothing_is_left_of_an_exchange_that_is_over(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = UpstreamClosed("gone")
    async with opened(Retry(limit=0) | balance(fleet, 1)) as service:
        with pytest.raises(UpstreamClosed):
            await ask(service)
        assert current_attempt() is None
    async with opened(Hedge() | balance(fleet, 1)) as service:
        with pytest.raises(UpstreamClosed):
            await ask(service)
        assert current_attempt() is None
