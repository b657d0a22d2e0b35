"""Prometheus' protobuf: what a reader with the public schema gets out of it."""

import math
import random

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from linkerd_proxy.metrics.exposition import Exposition
from linkerd_proxy.metrics.histogram import Exemplar, Histogram
from linkerd_proxy.metrics.protobuf_format import exposed
from linkerd_proxy.metrics.registry import Registry

# io/prometheus/client/metrics.proto, the part that is used: name, number, type (a capital is a message), repeated
_SCHEMA = {
    "LabelPair": "name 1 string, value 2 string",
    "Value": "value 1 double",
    "Exemplar": "label 1 LabelPair *, value 2 double, timestamp 3 Timestamp",
    "Timestamp": "seconds 1 int64, nanos 2 int32",
    "Bucket": "cumulative_count 1 uint64, upper_bound 2 double",
    "BucketSpan": "offset 1 sint32, length 2 uint32",
    "Histogram": "sample_count 1 uint64, sample_sum 2 double, bucket 3 Bucket *, schema 5 sint32, zero_threshold 6 double,"
    " zero_count 7 uint64, positive_span 12 BucketSpan *, positive_delta 13 sint64 *, exemplars 16 Exemplar *",
    "Metric": "label 1 LabelPair *, gauge 2 Value, counter 3 Value, histogram 7 Histogram",
    "MetricFamily": "name 1 string, help 2 string, type 3 int32, metric 4 Metric *",
}


@pytest.fixture(scope="module")
def family_class():
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package="p", syntax="proto3")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for field in fields.split(", "):
            word, number, kind, *repeated = field.split()
            made = message.field.add(name=word, number=int(number), label=3 if repeated else 1)
            if kind[0].isupper():
                made.type, made.type_name = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE, f".p.{kind}"
            else:
                made.type = descriptor_pb2.FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("p.MetricFamily"))


def read(family_class, data):
    families = []
    while data:
        size = shift = position = 0
        while True:
            byte = data[position]
            size |= (byte & 127) << shift
            position, shift = position + 1, shift + 7
            if byte < 128:
                break
        families.append(family_class.FromString(data[position : position + size]))
        data = data[position + size :]
    return families


def buckets_of(histogram):
    """Rebuild {upper bound: count} as Prometheus does."""
    base = 2.0 ** (2.0**-histogram.schema)
    deltas = iter(histogram.positive_delta)
    index = count = 0
    buckets = {}
    for span in histogram.positive_span:
        index += span.offset
        for _ in range(span.length):
            count += next(deltas)
            if count:
                buckets[base**index] = count
            index += 1
    assert next(deltas, None) is None
    return buckets


def test_counters_gauges_and_labels(family_class):
    registry = Registry()
    registry.counter("a_total", "Things", path='/"é').value = 3
    registry.gauge("b", "Level", empty="").value = -1.5
    counter, gauge = read(family_class, b"".join(exposed(registry)))
    assert (counter.name, counter.help, counter.type) == ("a_total", "Things", 0)
    assert counter.metric[0].counter.value == 3
    assert [(label.name, label.value) for label in counter.metric[0].label] == [("path", '/"é')]
    assert gauge.type == 1
    assert gauge.metric[0].gauge.value == -1.5
    assert not gauge.metric[0].label


@pytest.mark.parametrize("schema", [-4, -1, 0, 3, 8])
def test_a_native_histogram_has_every_value_in_the_bucket_that_prometheus_means(family_class, schema):
    registry = Registry()
    histogram = registry.histogram("a_ms", "")
    histogram.merge(Histogram(schema, 100_000))  # to that schema or coarser
    chance = random.Random(schema)
    values = [chance.lognormvariate(1, 3) for _ in range(500)] + [1.0, 2.0, 4.0, 1e-9]
    exact = Histogram(schema, 100_000)
    for value in values:
        exact.record(value)
    registry = Registry()
    registry.histogram("a_ms", "").merge(exact)
    (family,) = read(family_class, b"".join(exposed(registry)))
    native = family.metric[0].histogram
    assert native.schema <= schema
    base = 2.0 ** (2.0**-native.schema)
    for bound, count in buckets_of(native).items():
        inside = sum(1 for value in values if bound / base * (1 + 1e-12) < value <= bound * (1 + 1e-12))
        assert count == inside
    assert native.sample_count == len(values)
    assert native.sample_sum == pytest.approx(sum(values))


def test_zero_and_nothing(family_class):
    registry = Registry()
    registry.histogram("a_ms", "", of="zeros").record(0)
    registry.histogram("a_ms", "", of="nothing")
    (family,) = read(family_class, b"".join(exposed(registry)))
    zeros, nothing = (metric.histogram for metric in family.metric)
    assert (zeros.zero_count, zeros.sample_count) == (1, 1)
    assert nothing.sample_count == 0
    # A span that is empty tells a scraper that this is a native histogram.
    assert len(nothing.positive_span) == 1
    assert buckets_of(nothing) == {}


def test_classic_buckets_are_there_too(family_class):
    registry = Registry()
    registry.histogram("a_ms", "").record(3)
    (family,) = read(family_class, b"".join(exposed(registry)))
    classic = {bucket.upper_bound: bucket.cumulative_count for bucket in family.metric[0].histogram.bucket}
    assert classic[2.0] == 0
    assert classic[4.0] == classic[math.inf] == 1


def test_a_large_family_comes_in_parts_with_the_same_head(family_class):
    registry = Registry()
    for number in range(130):
        registry.counter("a_total", "", n=str(number)).value = number
    parts = list(exposed(registry))
    families = read(family_class, b"".join(parts))
    assert len(parts) == len(families) == 3
    assert {family.name for family in families} == {"a_total"}
    assert [metric.counter.value for family in families for metric in family.metric] == list(range(130))


def test_exemplars_lead_to_their_traces(family_class):
    registry = Registry()
    histogram = registry.histogram("a_ms", "")
    for value in (3.0, 3.5, 100.0):
        histogram.record(value)
        histogram.exemplify(Exemplar(value, f"{value:g}", 1_700_000_000.5))
    (family,) = read(family_class, b"".join(exposed(registry)))
    found = {one.label[0].value: one for one in family.metric[0].histogram.exemplars}
    assert set(found) == {"3.5", "100"}  # the newest of its octave
    assert (found["100"].timestamp.seconds, found["100"].timestamp.nanos) == (1_700_000_000, 500_000_000)


async def test_openmetrics_has_them_beside_their_buckets():
    registry = Registry()
    histogram = registry.histogram("a_ms", "")
    histogram.record(3.0)
    histogram.exemplify(Exemplar(3.0, "abc", 1.5))
    text = (await Exposition(registry, "openmetrics").read()).decode()
    lines = [line for line in text.splitlines() if "#" in line[1:]]
    assert lines == ['a_ms_bucket{le="3.0"} 0 # {trace_id="abc"} 3.0 1.5'] or lines == [
        'a_ms_bucket{le="3.0"} 1 # {trace_id="abc"} 3.0 1.5'
    ]
    assert "trace_id" not in (await Exposition(registry, "text").read()).decode()
