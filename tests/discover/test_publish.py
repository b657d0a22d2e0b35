"""What a source publishes, and what its readers hear."""

import gc

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.address import Address
from linkerd_proxy.core.endpoint import Add, Endpoint, Gone, Remove, Reset
from linkerd_proxy.core.shared import shared
from linkerd_proxy.discover.publish import Published
from linkerd_proxy.discover.static import Static
from linkerd_proxy.errors import InvalidConfiguration


def end(port: int, weight: float = 1.0) -> Endpoint:
    return Endpoint(Address("10.0.0.1", port), weight)


async def test_a_reader_first_hears_how_things_stand_and_then_each_change() -> None:
    published = Published()
    published.publish([end(1)])
    updates = published.updates()
    assert await anext(updates) == Reset((end(1),))
    published.publish([end(1), end(2)])
    assert await anext(updates) == Add((end(2),))
    published.publish([end(2)])
    assert await anext(updates) == Remove((end(1).address,))
    published.publish([end(2, 5)])
    assert await anext(updates) == Add((end(2, 5),))
    published.withdraw("no such name")
    assert await anext(updates) == Gone("no such name")
    published.publish([end(3)])
    assert await anext(updates) == Reset((end(3),))


async def test_what_comes_and_goes_at_once_is_told_as_a_whole() -> None:
    published = Published()
    published.publish([end(1)])
    updates = published.updates()
    await anext(updates)
    published.publish([end(2)])
    assert await anext(updates) == Reset((end(2),))


async def test_a_slow_reader_gets_one_reset_for_all_that_it_missed() -> None:
    published = Published()
    published.publish([end(1)])
    slow, other = published.updates(), published.updates()
    await anext(slow)
    await anext(other)
    for port in range(2, 100):
        published.publish([end(port)])
    assert await anext(slow) == Reset((end(99),))
    published.publish([end(99), end(100)])
    assert await anext(slow) == Add((end(100),))


async def test_a_reader_waits_for_the_first_answer_and_for_real_changes(autojump_clock) -> None:
    published = Published()
    heard: list[object] = []

    async def read() -> None:
        async for update in published.updates():
            heard.append(update)  # noqa: PERF401  # it never ends

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert heard == []
        published.publish([end(1)])
        await trio.testing.wait_all_tasks_blocked()
        published.publish([end(1)])
        published.withdraw("gone")
        published.withdraw("gone")
        await trio.testing.wait_all_tasks_blocked()
        assert heard == [Reset((end(1),)), Gone("gone")]
        nursery.cancel_scope.cancel()


async def test_a_cancelled_reader_loses_nothing() -> None:
    published = Published()
    updates = published.updates()
    with trio.CancelScope() as scope:
        scope.cancel()
        await anext(updates)
    published.publish([end(1)])
    assert await anext(updates) == Reset((end(1),))


async def test_a_reader_that_nobody_holds_is_forgotten() -> None:
    published = Published()
    published.publish([end(1)])
    updates = published.updates()
    assert len(published._readers) == 1
    del updates
    gc.collect()
    assert len(published._readers) == 0


@given(st.lists(st.tuples(st.dictionaries(st.integers(1, 6), st.integers(1, 3), max_size=6), st.booleans())))
def test_whatever_is_published_and_whenever_it_is_read_a_reader_ends_with_the_set(steps) -> None:
    async def main() -> None:
        published = Published()
        updates = published.updates()
        known: dict[Address, Endpoint] = {}
        for wanted, read in [*steps, ({1: 1}, True)]:
            published.publish([end(port, weight) for port, weight in wanted.items()])
            while read and updates._next is not None:
                apply(known, await anext(updates))
        assert known == {end(1).address: end(1)}

    trio.run(main)


def apply(known, update) -> None:
    match update:
        case Reset(endpoints):
            known.clear()
            known.update({one.address: one for one in endpoints})
        case Add(endpoints):
            known.update({one.address: one for one in endpoints})
        case Remove(addresses):
            for address in addresses:
                del known[address]


async def test_static_endpoints_are_known_at_once() -> None:
    static = Static("10.0.0.1:80", Address("10.0.0.2", 80), Endpoint(Address("10.0.0.3", 80), zone="a"))
    async with shared(static) as resolution:
        update = await anext(resolution.updates())
    assert update == Reset(
        (
            Endpoint(Address("10.0.0.1", 80)),
            Endpoint(Address("10.0.0.2", 80)),
            Endpoint(Address("10.0.0.3", 80), zone="a"),
        )
    )
    assert repr(Static("10.0.0.1:80", "web:80")) == "Static('10.0.0.1:80', 'web:80')"
    assert repr(static).startswith("Static('10.0.0.1:80', '10.0.0.2:80', Endpoint(")


@pytest.mark.parametrize(
    ("endpoints", "problem"),
    [
        ((), "has no endpoints"),
        (("a:1", "a:1"), "names a:1 twice"),
        (("nonsense",), "has no port"),
        ((["a:1", "b:1"],), r"Static\(\['a:1', 'b:1'\]\): give each address by itself"),
    ],
)
def test_impossible_sets_are_refused(endpoints, problem) -> None:
    with pytest.raises(InvalidConfiguration, match=problem):
        Static(*endpoints)
