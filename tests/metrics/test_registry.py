import pytest
import trio

from linkerd_proxy.metrics.registry import MAX_SERIES, Registry, current_registry
from linkerd_proxy.metrics.snapshot import dumped, loaded


def test_one_set_of_labels_is_one_series_whatever_the_order():
    registry = Registry()
    assert registry.counter("a_total", "", x="1", y="2") is registry.counter("a_total", "", y="2", x="1")


def test_a_name_has_one_kind():
    registry = Registry()
    registry.gauge("a_total", "")
    with pytest.raises(ValueError, match="is a gauge already"):
        registry.counter("a_total", "")


def test_a_counters_name_says_so():
    with pytest.raises(ValueError, match="must end in _total"):
        Registry().counter("requests", "")


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b", "ä", "a\n"])
def test_names_are_checked(name):
    with pytest.raises(ValueError, match="can't be a metric's name"):
        Registry().gauge(name, "")


@pytest.mark.parametrize("label", ["le", "quantile", "__name__", "a-b", "a\n"])
def test_labels_are_checked(label):
    with pytest.raises(ValueError, match="can't be a label"):
        Registry().gauge("a", "", **{label: "x"})


def test_series_beyond_the_limit_share_one():
    registry = Registry()
    for number in range(MAX_SERIES + 5):
        registry.counter("a_total", "", host=str(number)).value += 1
    (family,) = registry
    assert len(family.series) == MAX_SERIES + 1
    assert registry.counter("a_total", "", host="overflow").value == 5
    assert registry.counter("a_total", "", host="0").value == 1


def test_collectors_run_when_asked_and_only_inside_their_block():
    registry = Registry()
    calls = []
    with registry.collecting(lambda: calls.append(1)):
        registry.collect()
    registry.collect()
    assert calls == [1]


def filled(step):
    registry = Registry()
    registry.counter("a_total", "A", x=str(step % 2)).value += step
    registry.gauge("b", "B").value = step
    for value in range(step):
        registry.histogram("c_ms", "C").record(value + 0.5)
    return registry


def state(registry):
    return {
        (family.name, family.kind, labels): repr(series) if family.kind == "histogram" else series.value
        for family in registry
        for labels, series in family.series.items()
    }


def test_merging_sums_numbers_and_joins_histograms():
    total = Registry()
    for step in (1, 2, 3):
        total.merge(filled(step))
    assert total.counter("a_total", "", x="1").value == 4
    assert total.counter("a_total", "", x="0").value == 2
    assert total.gauge("b", "").value == 6
    assert total.histogram("c_ms", "").count == 6
    assert total.histogram("c_ms", "").total == 0.5 + 2.0 + 4.5


def test_merging_without_gauges_leaves_them_out():
    total = Registry()
    total.merge(filled(2), gauges=False)
    assert [family.name for family in total] == ["a_total", "c_ms"]


def test_a_snapshot_comes_back_as_it_was():
    registry = filled(7)
    assert state(loaded(dumped(registry))) == state(registry)
    histogram = loaded(dumped(registry)).histogram("c_ms", "")
    assert histogram.buckets == registry.histogram("c_ms", "").buckets


def test_a_snapshot_collects_first():
    registry = Registry()
    gauge = registry.gauge("late", "")

    def collect():
        gauge.value = 5

    with registry.collecting(collect):
        assert loaded(dumped(registry)).gauge("late", "").value == 5


@pytest.mark.parametrize(
    "line", ["[]", "{}", "1", "not json", '{"kind":"counter","name":"a_total","help":"","series":[[[],"x"]]}']
)
def test_what_is_no_snapshot_is_a_value_error(line):
    with pytest.raises(ValueError):  # noqa: PT011  # json's own, or ours
        loaded([line])


async def test_each_run_has_a_registry_of_its_own():
    assert current_registry() is current_registry()
    other = await trio.to_thread.run_sync(lambda: trio.run(_registry))
    assert other is not current_registry()


async def _registry():
    await trio.lowlevel.checkpoint()
    return current_registry()


def test_reprs_tell_the_state():
    registry = filled(2)
    assert repr(registry) == "<Registry of 3 families>"
    assert next(repr(family) for family in registry) == "<Family a_total, a counter of 1 series>"
    assert repr(registry.gauge("b", "")) == "<Gauge 2>"
    assert repr(registry.counter("a_total", "", x="0")) == "<Counter 2>"
