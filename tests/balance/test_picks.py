"""Which endpoint is picked: by load, by turn, by key, by weight, by zone, and how soon a new one."""

import random
from collections import Counter

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from linkerd_proxy.address import Address
from linkerd_proxy.balance.balance import Balance
from linkerd_proxy.balance.ewma import PeakEwma
from linkerd_proxy.balance.picks import LeastRequest, P2c, RoundRobin
from linkerd_proxy.balance.replica import Replica, Tally
from linkerd_proxy.balance.ring import Header, Peer, Ring
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Dial, Exchange, Target, Tls
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.testing import memory_connection
from tests.balance.origins import Fleet, Known, ask, end, exchange, known, takes

TALLY = Tally()


def replica(port: int, weight: float = 1.0, rtt: float = 0.03) -> Replica:
    found = Replica(end(port, weight=weight), PeakEwma(rtt, 10, 0), None, near=True, tally=TALLY)
    found.state = "ready"
    return found


def filled(pick, *replicas: Replica, seed: int = 1):
    picker = pick.picker(random.Random(seed))
    for one in replicas:
        picker.enrol(one)
        picker.add(one)
    return picker


def shares(picker, count: int = 20_000, work: object = None) -> dict[int, float]:
    picked = Counter(picker.pick(work, 0.0).endpoint.address.port for _ in range(count))
    return {port: number / count for port, number in picked.items()}


ALL = [P2c(), LeastRequest(), LeastRequest(3), RoundRobin(), Ring(lambda work: None)]


@pytest.mark.parametrize("pick", ALL, ids=repr)
def test_equal_endpoints_get_equal_shares_and_heavier_ones_more(pick) -> None:
    equal = shares(filled(pick, *map(replica, range(1, 5))))
    assert all(share == pytest.approx(0.25, abs=0.02) for share in equal.values())
    weighted = shares(filled(pick, replica(1, 1), replica(2, 3)))
    assert weighted[2] == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("pick", ALL, ids=repr)
def test_none_or_one_is_no_choice(pick) -> None:
    picker = filled(pick)
    assert picker.pick(None, 0.0) is None
    only = replica(1)
    picker.enrol(only)
    picker.add(only)
    assert {picker.pick(None, 0.0) for _ in range(10)} == {only}
    picker.discard(only)
    picker.dismiss(only)
    assert picker.pick(None, 0.0) is None


@hypothesis_settings(max_examples=60)
@given(
    st.sampled_from([*ALL, Ring(lambda work: str(work))]),
    st.lists(st.tuples(st.integers(0, 7), st.sampled_from([1.0, 2.0, 0.5])), max_size=60),
)
def test_only_ready_endpoints_are_picked_whatever_came_and_went(pick, toggles) -> None:
    picker = pick.picker(random.Random(0))
    ready: dict[int, Replica] = {}
    for port, weight in toggles:
        if port in ready:
            one = ready.pop(port)
            picker.discard(one)
            picker.dismiss(one)
        else:
            one = ready[port] = replica(port, weight)
            picker.enrol(one)
            picker.add(one)
        for key in range(3):
            picked = picker.pick(key, 0.0)
            assert picked in ready.values() if ready else picked is None


def test_p2c_takes_the_less_loaded_of_two() -> None:
    slow, fast = replica(1, rtt=0.1), replica(2, rtt=0.01)
    assert shares(filled(P2c(), slow, fast)) == {2: 1.0}
    fast.pending = 9  # 10 ms times ten is as much as 100 ms once
    assert shares(filled(P2c(), slow, fast))[2] == pytest.approx(0.5, abs=0.02)
    fast.pending = 10
    assert shares(filled(P2c(), slow, fast)) == {1: 1.0}


def test_p2c_of_three_never_takes_the_most_loaded() -> None:
    found = shares(filled(P2c(), replica(1, rtt=0.1), replica(2, rtt=0.01), replica(3, rtt=0.02)))
    assert set(found) == {2, 3}
    assert found[2] == pytest.approx(2 / 3, abs=0.02)


def test_load_is_by_weight_and_fades() -> None:
    heavy = replica(1, weight=4)
    heavy.pending = 4
    assert heavy.load(0) == pytest.approx(0.06)
    assert heavy.load(10) == pytest.approx(0.06 / 2.71828, rel=1e-4)


def test_least_request_takes_the_less_busy() -> None:
    busy, idle = replica(1), replica(2)
    busy.active = 1
    assert shares(filled(LeastRequest(), busy, idle)) == {2: 1.0}


def test_round_robin_takes_turns_and_an_endpoint_that_comes_back_is_not_owed() -> None:
    one, two, three = map(replica, (1, 2, 3))
    picker = filled(RoundRobin(), one, two, three)
    turns = [picker.pick(None, 0.0) for _ in range(6)]
    assert turns[:3] == turns[3:]
    assert set(turns) == {one, two, three}
    picker.discard(two)
    for _ in range(100):
        assert picker.pick(None, 0.0) is not two
    picker.add(two)
    assert Counter(picker.pick(None, 0.0).endpoint.address.port for _ in range(30)) == {1: 10, 2: 10, 3: 10}


def test_round_robin_forgets_those_that_went() -> None:
    picker = filled(RoundRobin(), replica(1))
    for port in range(2, 2000):
        one = replica(port)
        picker.add(one)
        picker.discard(one)
    assert len(picker._queue) < 100


# --- the ring ----------------------------------------------------------------------------------


def home(picker, key: str) -> int:
    return picker.pick(key, 0.0).endpoint.address.port


KEYS = [f"user-{number}" for number in range(2000)]


def test_a_key_stays_where_it_is_and_only_the_keys_of_who_goes_move() -> None:
    replicas = [replica(port) for port in range(1, 11)]
    picker = filled(Ring(str), *replicas)
    before = {key: home(picker, key) for key in KEYS}
    counts = Counter(before.values())
    assert all(100 < counts[port] < 320 for port in range(1, 11))
    assert before == {key: home(filled(Ring(str), *reversed(replicas)), key) for key in KEYS}
    picker.discard(replicas[3])  # it is out for a while
    moved = {key for key in KEYS if home(picker, key) != before[key]}
    assert moved == {key for key, port in before.items() if port == 4}
    picker.add(replicas[3])
    assert before == {key: home(picker, key) for key in KEYS}
    new = replica(11)
    picker.enrol(new)
    picker.add(new)
    assert {home(picker, key) for key in KEYS if home(picker, key) != before[key]} == {11}


def test_where_a_key_goes_is_the_same_in_every_process() -> None:
    picker = filled(Ring(str), *(replica(port) for port in range(1, 6)))
    assert [home(picker, key) for key in "abcdef"] == [4, 1, 5, 4, 2, 5]


def test_no_endpoint_of_a_ring_has_much_more_than_its_share() -> None:
    replicas = [replica(port) for port in range(1, 5)]
    picker = filled(Ring(str, bound=1.25), *replicas)
    for _ in range(400):
        picker.pick("the one hot key", 0.0).active += 1
        TALLY.active += 1
    TALLY.active = 0
    assert max(one.active for one in replicas) <= 126
    assert sum(one.active for one in replicas) == 400


async def test_keys_come_from_headers_and_from_who_asks() -> None:
    assert Header("X-User")(exchange(headers=[("x-user", "ada")])) == "ada"
    assert Header("x-user")(exchange()) is None
    assert Header("x-user")("no exchange") is None
    assert Peer()(exchange()) == "127.0.0.1"
    _, connection = memory_connection(tls=Tls("web.default"))
    assert Peer()(connection) == "web.default"
    assert Peer()(Exchange(exchange().request, exchange().respond, connection)) == "web.default"
    assert Peer()(Dial(Target(), None, Address("10.0.0.9", 1234))) == "10.0.0.9"
    assert Peer()(Dial(Target(), None)) is None
    assert Peer()("nobody") is None


async def test_requests_of_one_user_stick_to_one_endpoint() -> None:
    fleet = Fleet()
    async with opened(Balance(known(*range(1, 9)), fleet.replica, pick=Ring(Header("x-user")))) as service:
        for user in ("ada", "grace", "barbara"):
            fleet.served.clear()
            for _ in range(20):
                await ask(service, headers=[("x-user", user)])
            assert list(fleet.served.values()) == [20]


@pytest.mark.parametrize(
    "make", [lambda: Ring(str, bound=1), lambda: LeastRequest(1), lambda: P2c(default_rtt=0), lambda: P2c(decay=-1)]
)
def test_impossible_picks_are_refused(make) -> None:
    with pytest.raises(InvalidConfiguration):
        make()


# --- zones and slow start ----------------------------------------------------------------------


async def test_the_own_zone_is_preferred_until_it_is_much_more_loaded_or_not_ready(autojump_clock) -> None:
    fleet, resolve = Fleet(), Known()
    resolve.published.publish([end(1, zone="a"), end(2, zone="b"), end(3, zone="b")])
    fleet.behaviour = dict.fromkeys((1, 2, 3), takes(0.01))
    async with opened(Balance(resolve, fleet.replica, zone="a", dice=random.Random(1))) as service:
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(100):
            await ask(service)
        assert fleet.served == {1: 100}
        fleet.behaviour[1] = takes(1)
        for _ in range(20):
            await ask(service)
        assert fleet.served[1] <= 103
        fleet.behaviour[1] = "refused"
        resolve.published.publish([end(1, zone="a"), end(2, zone="a"), end(3, zone="b")])
        fleet.served.clear()
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(50):
            await ask(service)
        assert fleet.served[3] < 5


@pytest.mark.parametrize("pick", [RoundRobin(), LeastRequest()], ids=repr)
async def test_a_new_endpoint_comes_up_to_its_share_slowly(pick, autojump_clock) -> None:
    fleet, resolve = Fleet(), known(1, 2, 3)
    fleet.behaviour = dict.fromkeys((1, 2, 3, 4), takes(0.01))
    stack = Balance(resolve, fleet.replica, pick=pick, slow_start=10, dice=random.Random(1))
    async with opened(stack) as service:
        await trio.sleep(20)
        resolve.published.publish([end(port) for port in (1, 2, 3, 4)])
        await trio.testing.wait_all_tasks_blocked()
        share = []
        for _ in range(4):
            before = fleet.served[4]
            for _ in range(500):
                await ask(service)
            share.append((fleet.served[4] - before) / 500)
    assert share[0] < 0.12
    assert share[0] < share[1] < share[3]
    assert share[3] == pytest.approx(0.25, abs=0.04)
