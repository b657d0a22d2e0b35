"""Stacks tell those around them whether they are ready."""

from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
import trio.testing

from linkerd_proxy.core.ready import announce_ready, hearing_ready
from linkerd_proxy.core.stack import Layer, Stack, opened


@dataclass(frozen=True, slots=True)
class Waiting(Stack[str]):
    """Is ready when its name is in the set."""

    name: str
    ready: set[str] = field(default_factory=set)

    @asynccontextmanager
    async def open(self):
        announce_ready(lambda: self.name in self.ready)

        async def service(_: str) -> None: ...

        yield service


@dataclass(frozen=True, slots=True)
class Pass(Layer[str, str]):
    async def serve(self, work, inner) -> None:
        await inner(work)


@dataclass(frozen=True, slots=True)
class Two(Stack[str]):
    """Opens two branches and notes what each announced."""

    first: Stack[str]
    second: Stack[str]
    noted: list = field(default_factory=list)

    @asynccontextmanager
    async def open(self):
        with hearing_ready() as one:
            manager = opened(self.first)
            service = await manager.__aenter__()
        with hearing_ready() as two:
            other = opened(self.second)
            await other.__aenter__()
        self.noted[:] = [one, two]
        yield service
        await other.__aexit__(None, None, None)
        await manager.__aexit__(None, None, None)


async def test_an_announcement_is_heard_through_layers_that_know_nothing_of_it() -> None:
    waiting = Waiting("a")
    two = Two(Pass() | Pass() | waiting, Pass() | Waiting("b"))
    async with opened(two):
        (one,), (other,) = two.noted
        assert not one()
        assert not other()
        waiting.ready.add("a")
        assert one()
        assert not other()


async def test_a_stack_that_is_shared_is_heard_in_every_branch() -> None:
    shared = Waiting("a", {"a"})
    two = Two(Pass() | shared, Pass() | shared)
    async with opened(two):
        (one,), (other,) = two.noted
        assert one() is True
        assert other() is True


async def test_announcements_go_to_the_nearest_listener_only() -> None:
    inner = Two(Waiting("a"), Waiting("b"))
    with hearing_ready() as heard:
        async with opened(inner):
            assert [len(noted) for noted in inner.noted] == [1, 1]
    assert heard == []


async def test_without_a_listener_an_announcement_is_lost() -> None:
    async with opened(Waiting("a")) as service:
        await service("x")


async def test_what_a_task_opens_later_is_not_heard() -> None:
    async with trio.open_nursery() as nursery:
        go = trio.Event()

        async def later() -> None:
            await go.wait()
            announce_ready(lambda: True)

        with hearing_ready() as heard:
            nursery.start_soon(later)
            go.set()
            await trio.testing.wait_all_tasks_blocked()
        announce_ready(lambda: True)
    assert heard == []
