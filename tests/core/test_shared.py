"""Resources: opened by the first user, shared by name, closed after the last."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from linkerd_proxy.core.shared import Resource, shared
from linkerd_proxy.core.stack import Layer, Service, Stack, opened


@dataclass(frozen=True, slots=True)
class Clock(Resource[str]):
    log: list[str] = field(default_factory=list)
    broken: bool = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        self.log.append("open")
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise OSError("no such clock")
        try:
            yield "tick"
        finally:
            self.log.append("close")


@dataclass(frozen=True, slots=True)
class Using(Layer[list[str], list[str]]):
    clock: Clock

    @asynccontextmanager
    async def open(self, inner: Service[list[str]]) -> AsyncIterator[Service[list[str]]]:
        async with shared(self.clock) as live:

            async def service(work: list[str]) -> None:
                work.append(live)
                await inner(work)

            yield service


@dataclass(frozen=True, slots=True)
class End(Stack[list[str]]):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[list[str]]]:
        async def service(work: list[str]) -> None:
            work.append("end")

        yield service


async def test_a_resource_named_in_two_layers_is_opened_once() -> None:
    clock = Clock()
    async with opened(Using(clock) | Using(clock) | End()) as service:
        work: list[str] = []
        await service(work)
        assert work == ["tick", "tick", "end"]
        assert clock.log == ["open"]
    assert clock.log == ["open", "close"]


async def test_two_resources_that_are_equal_are_still_two() -> None:
    one, two = Clock(), Clock()
    async with opened(Using(one) | Using(two) | End()):
        assert one.log == two.log == ["open"]


async def test_a_stack_that_is_opened_late_shares_what_the_outer_one_has() -> None:
    clock = Clock()
    async with opened(Using(clock) | End()):
        async with trio.open_nursery() as nursery:

            async def endpoint() -> None:
                async with opened(Using(clock) | End()) as service:
                    await service([])

            nursery.start_soon(endpoint)
            nursery.start_soon(endpoint)
        assert clock.log == ["open"]
    assert clock.log == ["open", "close"]


async def test_the_last_user_closes_it_although_another_one_opened_it() -> None:
    clock = Clock()
    first_may_close, first_closed = trio.Event(), trio.Event()
    async with opened(End()), trio.open_nursery() as nursery:

        async def first() -> None:
            async with opened(Using(clock) | End()):
                await first_may_close.wait()
            first_closed.set()

        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked()
        async with opened(Using(clock) | End()):
            first_may_close.set()
            await first_closed.wait()
            assert clock.log == ["open"]
        await trio.testing.wait_all_tasks_blocked()
        assert clock.log == ["open", "close"]


async def test_one_that_fails_to_open_fails_each_user_and_may_be_tried_again() -> None:
    clock = Clock(broken=True)
    async with opened(End()):
        for _ in range(2):
            with pytest.raises(OSError, match="no such clock"):
                async with opened(Using(clock) | End()):
                    pass
    assert clock.log == ["open", "open"]


async def test_without_a_stack_around_it_belongs_to_its_caller() -> None:
    clock = Clock()
    async with shared(clock) as live:
        assert live == "tick"
    assert clock.log == ["open", "close"]


asking: ContextVar[str] = ContextVar("asking", default="nobody")


@dataclass(frozen=True, slots=True)
class Listener(Resource[str]):
    """Tells on whose behalf it runs."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        yield asking.get()


async def test_a_resource_does_not_run_on_behalf_of_whoever_came_first() -> None:
    async with opened(End()), trio.open_nursery() as nursery:

        async def one_clients_task() -> None:
            asking.set("one client")  # as which way its work came, or what is noted of its exchange
            async with shared(Listener()) as told:
                assert told == "nobody"

        nursery.start_soon(one_clients_task)


@dataclass(frozen=True, slots=True)
class Slow(Resource[str]):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        await trio.sleep_forever()
        yield ""


async def test_who_waits_for_a_resource_is_told_when_the_stack_that_it_belongs_to_closes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as longer:

        async def wait() -> None:
            with trio.fail_after(5), pytest.raises(trio.ClosedResourceError):
                async with shared(Slow()):
                    pass

        async with opened(End()):
            longer.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()


@dataclass(frozen=True, slots=True)
class Calendar(Resource[str]):
    clock: Clock

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        async with shared(self.clock) as time:
            yield f"day of {time}"


async def test_a_resource_that_names_another_shares_that_one_too() -> None:
    clock = Clock()
    async with opened(Using(clock) | End()), shared(Calendar(clock)) as calendar:
        assert calendar == "day of tick"
        assert clock.log == ["open"]
