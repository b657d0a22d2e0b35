"""The tree of tasks shows all of them, and stops none."""

import re
from contextlib import AsyncExitStack, asynccontextmanager

import trio
import trio.testing

from linkerd_proxy.core.message import Request
from linkerd_proxy.core.stack import Layer, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.http.handler import handler
from linkerd_proxy.mesh.tasks import TaskTree
from linkerd_proxy.testing import call


@handler
async def stuck(request):
    await trio.sleep_forever()


async def ask(service):
    async with call(service, Request("GET", "/")):
        pass


async def test_every_task_stands_under_the_one_that_waits_for_it_in_the_order_of_names(nursery):
    async def parent():
        async with trio.open_nursery() as inner:
            for name in ("b", "a"):
                inner.start_soon(trio.sleep_forever, name=name)

    nursery.start_soon(parent, name="the parent")
    nursery.start_soon(trio.sleep_forever, name="the uncle")
    await trio.testing.wait_all_tasks_blocked()
    lines = (await TaskTree().read()).decode().splitlines()
    nursery.cancel_scope.cancel()
    names = [line for line in lines if line.strip() in {"a", "b", "the parent", "the uncle"}]
    assert [name.strip() for name in names] == ["the parent", "a", "b", "the uncle"]
    [one, *_] = names
    assert [len(name) - len(name.lstrip()) for name in names] == [
        len(one) - len(one.lstrip()) + i for i in (0, 4, 4, 0)
    ]


async def test_others_come_to_their_turn_while_thousands_are_listed(nursery):
    turns = 0

    async def ticks():
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    for number in range(3000):
        nursery.start_soon(trio.sleep_forever, name=f"number {number}")
    nursery.start_soon(ticks)
    await trio.lowlevel.checkpoint()
    tree, slices = TaskTree(), []
    while chunk := await tree.pull():
        slices.append(chunk)
    nursery.cancel_scope.cancel()
    assert b"".join(slices).count(b"number ") == 3000
    assert max(chunk.count(b"\n") for chunk in slices) <= 100
    assert turns >= len(slices) - 1 > 30


async def test_what_ends_meanwhile_is_left_out(nursery):
    ended = trio.Event()
    for number in range(200):
        nursery.start_soon(ended.wait, name=f"number {number:03}")
    await trio.testing.wait_all_tasks_blocked()
    tree = TaskTree()
    shown = await tree.pull()
    ended.set()
    await trio.testing.wait_all_tasks_blocked()
    shown += await tree.read()
    assert 0 < shown.count(b"number ") < 200


async def test_a_layer_prints_itself_once_for_all_its_requests(nursery):
    printed = []

    class Passing(Layer[Exchange, Exchange]):
        async def serve(self, work, inner):
            await inner(work)

        def __repr__(self):
            printed.append(self)
            return "Passing(a long configuration)"

    async with opened(Passing() | stuck) as service:
        for _ in range(10):
            nursery.start_soon(ask, service)
        await trio.testing.wait_all_tasks_blocked()
        text = await TaskTree().read()
        nursery.cancel_scope.cancel()
    assert text.count(b"in Passing(a long configuration)") == 10
    assert len(printed) == 1


async def test_of_many_stacks_that_are_alike_each_request_is_in_its_own(nursery):
    class Numbered(Layer[Exchange, Exchange]):
        def __init__(self, number):
            self.number = number

        @asynccontextmanager
        async def open(self, inner):
            async def service(exchange):
                await inner(exchange)

            yield service

        def __repr__(self):
            return f"Numbered({self.number})"

    async with AsyncExitStack() as exits:
        for number in range(100):
            service = await exits.enter_async_context(opened(Numbered(number) | stuck))
            nursery.start_soon(ask, service, name=f"asks {number:02}")
        await trio.testing.wait_all_tasks_blocked()
        text = (await TaskTree().read()).decode()
        nursery.cancel_scope.cancel()
    shown = re.findall(r"in Numbered\((\d+)\)", text)
    assert sorted(map(int, shown)) == list(range(100))
