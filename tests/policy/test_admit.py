"""Bounds on the work in flight."""

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.errors import InvalidConfiguration, Overloaded
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.policy import Limit, Limiter, LimitStatistics


@dataclass(frozen=True, slots=True)
class Work(Stack[str]):
    """Notes who came in, stays there a second, and raises for those named ``bad``."""

    seconds: float = 1.0
    log: list[str] = field(default_factory=list, repr=False)

    @asynccontextmanager
    async def open(self):
        async def service(name: str) -> None:
            self.log.append(name)
            await trio.sleep(self.seconds)
            if name == "bad":
                raise ValueError(name)

        yield service


async def test_so_many_are_let_in_and_the_others_wait_in_order(autojump_clock) -> None:
    work = Work()
    async with opened(Limit[str](2, wait=10) | work) as service, trio.open_nursery() as nursery:
        for name in "abcdef":
            nursery.start_soon(service, name)
            await trio.testing.wait_all_tasks_blocked()
        assert work.log == ["a", "b"]
        assert isinstance(service, Limiter)
        assert service.statistics() == LimitStatistics(in_flight=2, waiting=4, refused=0)
        assert repr(service) == "<Limiter with 2 of 2 in flight, 4 waiting, 0 refused>"
        await trio.sleep(1.5)
        # The scheduler may run the two of one second in either order.
        assert set(work.log[2:4]) == {"c", "d"}
    assert set(work.log[4:]) == {"e", "f"}
    assert trio.current_time() == pytest.approx(3)
    assert service.statistics() == LimitStatistics(in_flight=0, waiting=0, refused=0)


async def test_those_who_wait_are_let_in_one_after_the_other(autojump_clock) -> None:
    work = Work()
    async with opened(Limit[str](1, wait=10) | work) as service, trio.open_nursery() as nursery:
        for name in "abcdef":
            nursery.start_soon(service, name)
            await trio.testing.wait_all_tasks_blocked()
    assert work.log == list("abcdef")


async def test_a_newcomer_does_not_overtake_those_who_wait(autojump_clock) -> None:
    work = Work()
    async with opened(Limit[str](1, wait=10) | work) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, "first")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(service, "waiting")
        await trio.sleep(1)  # the slot changes hands in this turn
        await service("newcomer")
    assert work.log == ["first", "waiting", "newcomer"]


async def test_a_full_queue_refuses_at_once(autojump_clock) -> None:
    async with opened(Limit[str](1, queue=1) | Work(0.5)) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, "a")
        nursery.start_soon(service, "b")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Overloaded) as caught:
            await service("c")
        assert trio.current_time() == 0
        assert isinstance(service, Limiter)
        assert service.statistics().refused == 1
    assert str(caught.value) == (
        "Limit: all 1 slots of Limit(in_flight=1) are taken and 1 wait already; "
        "retry later, or raise the limit that the message names"
    )
    assert caught.value.status == 503


async def test_waiting_too_long_is_refused(autojump_clock) -> None:
    work = Work(10)
    async with opened(Limit[str](1, wait=2) | work) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, "a")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Overloaded, match="none was free in time after 2 s"):
            await service("b")
        assert trio.current_time() == pytest.approx(2)
        assert repr(service) == "<Limiter with 1 of 1 in flight, 0 waiting, 1 refused>"
    assert work.log == ["a"]


async def test_no_queue_refuses_at_once(autojump_clock) -> None:
    async with opened(Limit[str](1, queue=0) | Work()) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, "a")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Overloaded, match="0 wait already"):
            await service("b")


async def test_work_that_fails_or_is_cancelled_gives_its_slot_back(autojump_clock) -> None:
    async with opened(Limit[str](1, queue=0) | Work()) as service:
        with pytest.raises(ValueError, match="bad"):
            await service("bad")
        with trio.move_on_after(0.5):
            await service("cancelled")
        await service("next")
        assert repr(service) == "<Limiter with 0 of 1 in flight, 0 waiting, 0 refused>"


async def test_waiting_work_that_is_cancelled_leaves_the_queue(autojump_clock) -> None:
    work = Work()
    async with opened(Limit[str](1, queue=1) | work) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, "a")
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.2) as scope:
            await service("b")
        assert scope.cancelled_caught
        await service("c")
    assert work.log == ["a", "c"]
    assert trio.current_time() == pytest.approx(2)


async def test_a_slot_that_comes_in_the_turn_of_a_cancellation_is_not_lost(autojump_clock) -> None:
    work = Work()
    async with opened(Limit[str](1, wait=1) | work) as service:
        for _ in range(20):  # both at second 1: the slot becomes free, and the waiting ends
            async with trio.open_nursery() as nursery:
                nursery.start_soon(service, "a")
                await trio.testing.wait_all_tasks_blocked()
                with trio.move_on_after(1):
                    with suppress(Overloaded):
                        await service("b")
        assert isinstance(service, Limiter)
        assert service.statistics().in_flight == 0
        await service("last")
    assert work.log[-1] == "last"


async def test_it_is_counted(autojump_clock) -> None:
    registry = current_registry()
    flying = registry.gauge("limit_in_flight", "")
    waiting = registry.gauge("limit_waiting", "")
    refused = registry.counter("limit_refused_total", "")
    async with opened(Limit[str](1, queue=1, wait=5) | Work()) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, "a")
        nursery.start_soon(service, "b")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Overloaded):
            await service("c")
        assert (flying.value, waiting.value, refused.value) == (1, 1, 1)
    assert (flying.value, waiting.value, refused.value) == (0, 0, 1)


@pytest.mark.parametrize("options", [{"in_flight": 0}, {"queue": -1}, {"wait": -1}])
def test_impossible_limits_are_refused(options) -> None:
    with pytest.raises(InvalidConfiguration, match=next(iter(options))):
        Limit(**options)
