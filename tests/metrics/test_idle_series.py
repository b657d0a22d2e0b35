"""Series that nobody counts in any more make room; those that a layer holds stay."""

import gc

import trio

from linkerd_proxy.metrics.registry import MAX_SERIES, RETAIN_IDLE, Registry


def names(registry):
    registry.collect()
    return {labels[0][1] for family in registry for labels, _ in family.items()}


async def test_a_series_that_nobody_holds_goes_after_ten_idle_minutes(autojump_clock):
    registry = Registry()
    registry.counter("a_total", "", host="gone").value += 1
    held = registry.counter("a_total", "", host="held")
    assert names(registry) == {"gone", "held"}
    await trio.sleep(RETAIN_IDLE - 1)
    assert names(registry) == {"gone", "held"}
    await trio.sleep(2)
    names(registry)
    gc.collect()
    assert names(registry) == {"held"}
    held.value += 1
    assert names(registry) == {"held"}
    assert registry.counter("a_total", "", host="held") is held


async def test_one_that_is_counted_in_stays(autojump_clock):
    registry = Registry()
    for _ in range(4):
        registry.counter("a_total", "", host="busy").value += 1
        assert names(registry) == {"busy"}
        await trio.sleep(RETAIN_IDLE * 0.7)


async def test_a_gauge_that_says_something_stays(autojump_clock):
    registry = Registry()
    registry.gauge("a", "", host="open").value = 1
    registry.gauge("a", "", host="none").value = 0
    names(registry)
    await trio.sleep(RETAIN_IDLE + 1)
    names(registry)
    gc.collect()
    assert names(registry) == {"open"}


async def test_what_went_makes_room_for_others(autojump_clock):
    registry = Registry()
    for number in range(MAX_SERIES):
        registry.counter("a_total", "", host=str(number)).value += 1
    registry.collect()
    await trio.sleep(RETAIN_IDLE + 1)
    registry.collect()
    gc.collect()
    registry.counter("a_total", "", host="fresh").value += 1
    assert names(registry) == {"fresh"}


async def test_the_memory_of_what_went_is_given_back(autojump_clock):
    registry = Registry()
    for number in range(20):
        registry.counter("a_total", "", host=str(number)).value += 1
    registry.collect()
    await trio.sleep(RETAIN_IDLE + 1)
    registry.collect()
    registry.collect()
    (family,) = registry
    assert len(family) == len(family._seen) == 0


async def test_the_series_of_all_that_is_too_much_is_one_also_after_it_was_idle(autojump_clock):
    registry = Registry()
    held = [registry.counter("a_total", "", host=str(number)) for number in range(MAX_SERIES)]
    rest = registry.counter("a_total", "", host="one more")
    rest.value += 1
    registry.collect()
    await trio.sleep(RETAIN_IDLE + 1)
    registry.collect()
    assert registry.counter("a_total", "", host="another") is rest
    rest.value += 1
    registry.collect()
    (family,) = registry
    assert len(family.items()) == len(held) + 1
    assert dict(family.items())[("host", "overflow"),].value == 2
