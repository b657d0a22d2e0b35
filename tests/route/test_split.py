"""Work is spread by weight, over those that are ready."""

from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from linkerd_proxy.balance.balance import Balance
from linkerd_proxy.core.message import Request
from linkerd_proxy.core.ready import announce_ready, hearing_ready
from linkerd_proxy.core.stack import Layer, Stack, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration, NoBackend
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.route import Backend, FirstAvailable, HttpRoute, Route, Rule, Split
from linkerd_proxy.testing import call
from tests.balance.origins import Fleet, end, known
from tests.balance.origins import ask as balanced
from tests.route.test_rules import named


@dataclass(frozen=True, slots=True)
class Place(Stack[str]):
    """Notes who came; ready as ``ready`` says, or without a say."""

    name: str
    seen: list[str]
    ready: list[bool] = field(default_factory=list)

    @asynccontextmanager
    async def open(self):
        if self.ready:
            announce_ready(lambda: self.ready[0])

        async def service(work: str) -> None:
            self.seen.append(self.name)

        yield service


@dataclass(frozen=True, slots=True)
class Pass(Layer[str, str]):
    async def serve(self, work, inner) -> None:
        await inner(work)


def places(seen: list[str], **weights: float) -> list[Backend[str]]:
    return [Backend(Place(name, seen), weight, name) for name, weight in weights.items()]


@pytest.mark.parametrize("seed", range(3))
async def test_the_parts_are_within_one_percent_over_100_000_requests(seed: int) -> None:
    seen: list[str] = []
    weights = {"a": 90, "b": 9, "c": 0.9, "d": 0.1, "off": 0}
    async with opened(Split[str](places(seen, **weights), dice=Random(seed))) as service:
        for _ in range(100_000):
            await service("x")
    counts = Counter(seen)
    for name, weight in weights.items():
        assert counts[name] == pytest.approx(1000 * weight, rel=0.01, abs=3)
        counted = current_registry().counter("split_total", "", backend=name).value
        assert counted == counts[name]


@pytest.mark.parametrize("step", [2, 3, 7, 10])
async def test_no_rhythm_of_the_callers_falls_in_step_with_it(step: int) -> None:
    seen: list[str] = []
    async with opened(Split[str](places(seen, a=1, b=1), dice=Random(1))) as service:
        for _ in range(10_000):
            await service("x")
    assert Counter(seen[::step])["a"] / len(seen[::step]) == pytest.approx(0.5, abs=0.01)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(0, 1000))
def test_no_part_is_more_than_a_few_off(weights: list[float], seed: int) -> None:
    async def main() -> None:
        seen: list[str] = []
        backends = [Backend(Place(str(i), seen), weight) for i, weight in enumerate(weights)]
        async with opened(Split[str](backends, dice=Random(seed))) as service:
            for _ in range(500):
                await service("x")
        counts = Counter(seen)
        for i, weight in enumerate(weights):
            assert abs(counts[str(i)] - 500 * weight / sum(weights)) < 6

    trio.run(main)


async def test_those_that_are_not_ready_are_left_out() -> None:
    seen: list[str] = []
    up, also = [True], [True]
    backends = [
        Backend(Pass() | Place("a", seen, up), 50),
        Backend(Place("b", seen, also), 30),
        Backend(Place("c", seen), 20),
    ]
    async with opened(Split[str](backends, dice=Random(1))) as service:

        async def counts() -> Counter[str]:
            seen.clear()
            for _ in range(1000):
                await service("x")
            return Counter(seen)

        assert await counts() == pytest.approx({"a": 500, "b": 300, "c": 200}, abs=5)
        up[0] = False
        assert await counts() == pytest.approx({"b": 600, "c": 400}, abs=5)
        also[0] = False
        assert await counts() == {"c": 1000}
        up[0] = True
        assert await counts() == pytest.approx({"a": 714, "c": 286}, abs=5)


async def test_if_none_is_ready_all_get_their_part_and_queue_it() -> None:
    seen: list[str] = []
    backends = [Backend(Place(name, seen, [False]), 1) for name in "ab"]
    async with opened(Split[str](backends)) as service:
        for _ in range(100):
            await service("x")
    assert Counter(seen) == pytest.approx({"a": 50, "b": 50}, abs=3)


async def test_a_split_is_ready_if_one_of_its_backends_is() -> None:
    seen: list[str] = []
    one, two = [False], [False]
    with hearing_ready() as heard:
        async with opened(Split[str]([Backend(Place("a", seen, one)), Backend(Place("b", seen, two))])):
            assert not heard[0]()
            two[0] = True
            assert heard[0]()
    with hearing_ready() as heard:
        async with opened(Split[str]([Backend(Place("a", seen, one)), Backend(Place("b", seen))])):
            assert heard == []


async def test_splits_nest() -> None:
    seen: list[str] = []
    inner = Split[str](places(seen, b=1, c=3))
    async with opened(Split[str]([Backend(Place("a", seen), 1), Backend(inner, 1)], dice=Random(1))) as service:
        for _ in range(4000):
            await service("x")
    assert Counter(seen) == pytest.approx({"a": 2000, "b": 500, "c": 1500}, abs=20)


async def test_no_weight_at_all_is_no_backend() -> None:
    seen: list[str] = []
    async with opened(Split[str](places(seen, a=0, b=0))) as service:
        with pytest.raises(NoBackend, match="none of the 2 backends has any weight"):
            await service("x")
    assert seen == []


async def test_a_rule_sends_to_a_split() -> None:
    split = Split([Backend(named("v1"), 3, "v1"), Backend(named("v2"), 1, "v2")])
    served = Counter[str]()
    async with opened(Route([HttpRoute([Rule(backend=split)])])) as service:
        for _ in range(400):
            async with call(service, Request()) as response:
                served[(await response.body.read()).decode()] += 1
    assert served == pytest.approx({"v1": 300, "v2": 100}, abs=4)


async def test_first_available_takes_the_first_that_is_ready() -> None:
    seen: list[str] = []
    one, two = [True], [True]
    stack = FirstAvailable[str]([Place("a", seen, one), Pass() | Place("b", seen, two)])
    async with opened(stack) as service:
        for first, second in ((True, True), (False, True), (False, False), (True, False)):
            one[0], two[0] = first, second
            await service("x")
    assert seen == ["a", "b", "a", "a"]


def test_the_tree_shows_names_and_weights() -> None:
    seen: list[str] = []
    assert str(Split[str](places(seen, a=90, b=2.5))).splitlines() == [
        "Split()",
        "├─ a 90: Place(name='a', seen=[], ready=[])",
        "└─ b 2.5: Place(name='b', seen=[], ready=[])",
    ]
    assert str(FirstAvailable[str]([Place("a", seen)])).splitlines()[1].startswith("└─ 1: Place(")


@pytest.mark.parametrize(
    "build",
    [
        lambda: Split([]),
        lambda: FirstAvailable([]),
        lambda: Backend(Place("a", []), -1),
        lambda: Backend(Place("a", []), float("nan")),
    ],
)
def test_what_can_not_be_is_refused(build) -> None:
    with pytest.raises(InvalidConfiguration):
        build()


async def test_a_balancer_without_endpoints_gets_nothing_until_it_has_one(autojump_clock) -> None:
    fleet, first, second = Fleet(), known(1), known()
    split = Split([Backend(Pause() | Balance(resolve, fleet.replica), 1) for resolve in (first, second)])
    async with opened(split) as service:
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(100):
            assert await balanced(service) == 200
        assert fleet.served == {1: 100}
        second.published.publish([end(2)])
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(100):
            assert await balanced(service) == 200
        assert fleet.served == pytest.approx({1: 150, 2: 50}, abs=3)


@dataclass(frozen=True, slots=True)
class Pause(Layer[Exchange, Exchange]):
    async def serve(self, work, inner) -> None:
        await inner(work)
