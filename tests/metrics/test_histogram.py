import math
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linkerd_proxy.metrics.histogram import MAX_SCHEMA, MIN_SCHEMA, Exemplar, Histogram

positive = st.floats(min_value=0, exclude_min=True, max_value=sys.float_info.max)
patient = settings(deadline=None)  # a loaded machine is no failure
latencies = st.floats(min_value=1e-3, max_value=1e6)
schemas = st.integers(MIN_SCHEMA, MAX_SCHEMA)


def filled(values, schema=3, max_buckets=256):
    histogram = Histogram(schema, max_buckets)
    for value in values:
        histogram.record(value)
    return histogram


def state(histogram):
    return histogram.schema, histogram.buckets, histogram.zeros, histogram.count


@patient
@given(positive, schemas)
def test_a_value_lies_in_its_bucket_which_includes_its_upper_bound(value, schema):
    histogram = filled([value], schema)
    (index,) = histogram.buckets
    assert histogram.bound(index) < value or histogram.bound(index) == value == histogram.bound(index + 1)
    assert value <= histogram.bound(index + 1)


@pytest.mark.parametrize("schema", range(MIN_SCHEMA, MAX_SCHEMA + 1))
def test_powers_of_two_end_their_bucket_at_every_schema(schema):
    for exponent in range(-1022, 1024):
        value = math.ldexp(1.0, exponent)
        (index,) = filled([value], schema).buckets
        (above,) = filled([math.nextafter(value, math.inf)], schema).buckets
        # As integers: a power of two belongs below its bound, and what is next belongs above it.
        last = (exponent << schema) - 1 if schema >= 0 else (exponent - 1) >> -schema
        assert index == last
        if schema >= 0 or exponent % (1 << -schema) == 0:
            assert above == index + 1


@patient
@given(st.lists(positive, max_size=40), schemas, schemas)
def test_recording_at_a_coarse_schema_is_recording_at_a_fine_one_and_joining(values, one, other):
    coarse, fine = min(one, other), max(one, other)
    merged = Histogram(coarse)
    merged.merge(filled(values, fine))
    assert state(merged) == state(filled(values, coarse))


@patient
@given(st.lists(positive, max_size=30), st.lists(positive, max_size=30), st.lists(positive, max_size=30))
def test_merging_is_associative_commutative_and_the_same_as_recording_all(a, b, c):
    def build(values):
        return filled(values, max_buckets=20)

    left = build(a)
    left.merge(build(b))
    left.merge(build(c))
    inner = build(c)
    inner.merge(build(b))
    right = build(a)
    right.merge(inner)
    assert state(left) == state(right) == state(build(a + b + c))


@patient
@given(
    st.lists(latencies, max_size=30),
    st.lists(latencies, max_size=30),
    st.lists(latencies, max_size=30),
    schemas,
    schemas,
    schemas,
)
def test_merging_histograms_of_any_schemas_in_any_grouping_gives_the_same(a, b, c, first, second, third):
    def build():
        return filled(a, first), filled(b, second), filled(c, third)

    x, y, z = build()
    x.merge(y)
    x.merge(z)
    u, v, w = build()
    v.merge(w)
    u.merge(v)
    assert state(x) == state(u)
    assert sum(x.buckets.values()) == x.count == len(a) + len(b) + len(c)
    assert x.total == pytest.approx(sum(a) + sum(b) + sum(c))


@patient
@given(st.lists(latencies, min_size=1, max_size=200), st.floats(0, 1), schemas)
def test_a_quantile_is_off_by_at_most_one_buckets_width(values, q, schema):
    histogram = filled(values, schema)
    exact = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    estimate = histogram.quantile(q)
    base = 2.0 ** (2.0**-histogram.schema)
    assert exact / base <= estimate * (1 + 1e-12)
    assert estimate <= exact * base * (1 + 1e-12)


def test_negative_and_positive_indexes_join_in_the_right_pairs():
    # Buckets -4 .. 3 of schema 1 are the octave pairs (2**-2, 2**-1.5] and so on; one schema down: -2, -2, -1, -1 ...
    histogram = Histogram(1)
    histogram.buckets = dict.fromkeys(range(-4, 4), 1)
    histogram.count = 8
    coarse = Histogram(0)
    coarse.merge(histogram)
    assert coarse.buckets == {-2: 2, -1: 2, 0: 2, 1: 2}


@patient
@given(st.lists(positive, max_size=300))
def test_it_never_holds_more_buckets_than_allowed_nor_loses_a_value(values):
    histogram = filled(values, MAX_SCHEMA, max_buckets=160)
    assert len(histogram.buckets) <= 160
    assert sum(histogram.buckets.values()) == histogram.count == len(values)


@patient
@given(st.lists(st.floats(1e-3, 1e6), max_size=100), st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=10))
def test_classic_counts_are_monotone_and_off_by_no_more_than_the_bucket_that_is_cut(values, bounds):
    bounds = sorted(set(bounds))
    histogram = filled(values)
    counts = histogram.cumulative(bounds)
    assert counts == sorted(counts)
    base = 2.0 ** (2.0**-histogram.schema)
    for bound, count in zip(bounds, counts, strict=True):
        assert sum(value <= bound / base for value in values) <= count
        assert count <= sum(value <= bound * base for value in values)


def test_classic_counts_are_exact_where_a_bound_is_a_power_of_two():
    assert filled([0.5, 1, 1.5, 2, 2.5, 4, 0]).cumulative([1, 2, 4]) == [3, 5, 7]


def test_zero_and_less_are_counted_apart():
    histogram = filled([0.0, -1.0, 4.0])
    assert (histogram.zeros, histogram.count, histogram.total) == (2, 3, 3.0)
    assert histogram.quantile(0.5) == 0.0
    assert histogram.quantile(1) == pytest.approx(4.0)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_would_spoil_the_sum_is_refused_and_not_counted(value):
    histogram = Histogram()
    with pytest.raises(ValueError, match="can't hold"):
        histogram.record(value)
    assert (histogram.count, histogram.total) == (0, 0.0)


def test_none_has_no_quantile():
    assert math.isnan(Histogram().quantile(0.5))


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_quantile_is_a_share(q):
    with pytest.raises(ValueError, match="give a share"):
        Histogram().quantile(q)


@pytest.mark.parametrize(("schema", "max_buckets"), [(-5, 10), (9, 10), (3, 0)])
def test_what_makes_no_histogram_is_refused(schema, max_buckets):
    with pytest.raises(ValueError, match="give"):
        Histogram(schema, max_buckets)


def test_repr_tells_the_state():
    assert repr(filled([1, 2])) == "<Histogram of 2 values, schema 3, 2 buckets>"


def test_of_two_examples_the_newer_one_stays_in_whatever_order_they_are_merged():
    old, new = Histogram(), Histogram()
    for histogram, value, moment in ((old, 5.0, 1.0), (new, 6.0, 2.0)):
        histogram.record(value)
        histogram.exemplify(Exemplar(value, "ab", moment))
    for first, second in ((old, new), (new, old)):
        merged = Histogram()
        merged.merge(first)
        merged.merge(second)
        assert [one.value for one in merged.exemplars.values()] == [6.0]
