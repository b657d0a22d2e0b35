"""Traces as headers tell them: W3C, gRPC's binary form, B3."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.headers import Headers
from linkerd_proxy.metrics.trace_context import TraceContext, continue_trace, find_trace

TRACE = 0x0AF7651916CD43DD8448EB211C80319C
SPAN = 0xB7AD6B7169203331
T, S = f"{TRACE:032x}", f"{SPAN:016x}"
W3C = f"00-{T}-{S}-01"
BINARY = base64.b64encode(b"\0\0" + TRACE.to_bytes(16) + b"\1" + SPAN.to_bytes(8) + b"\2\1").decode()


def find(*fields):
    return find_trace(Headers(fields).raw)


def test_no_header_is_no_trace():
    assert find() is None
    assert find(("accept", "*/*"), ("x-request-id", T)) is None


def test_w3c_is_understood_with_what_vendors_say():
    assert find(("traceparent", W3C), ("tracestate", "a=1"), ("tracestate", "b=2")) == TraceContext(
        TRACE, SPAN, True, "a=1,b=2"
    )
    assert find(("traceparent", f"00-{T}-{S}-00")) == TraceContext(TRACE, SPAN, False)


def test_later_versions_may_say_more():
    assert find(("traceparent", f"cc-{T}-{S}-01-what-comes")) == TraceContext(TRACE, SPAN, True)
    assert find(("traceparent", f"cc-{T}-{S}-03")) == TraceContext(TRACE, SPAN, True)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        f"00-{T}-{S}",
        f"00-{T}-{S}-1",
        f"00-{T}-{S}-01-",
        f"00-{T}-{S}-01-more",
        f"ff-{T}-{S}-01",
        f"0-{T}-{S}-01",
        f"00-{T.upper()}-{S}-01",
        f"00-{'0' * 32}-{S}-01",
        f"00-{T}-{'0' * 16}-01",
        f"00-{T[:-1]}-{S}-01",
        f"00-{T}-{S}-0x",
        f"00_{T}_{S}_01",
        f"cc-{T}-{S}-01.what",
    ],
)
def test_a_malformed_traceparent_is_none(value):
    assert find(("traceparent", value), ("tracestate", "a=1")) is None


def test_two_traceparents_are_none():
    assert find(("traceparent", W3C), ("traceparent", W3C)) is None


def test_grpc_tells_it_in_binary():
    assert find(("grpc-trace-bin", BINARY)) == TraceContext(TRACE, SPAN, True)
    assert find(("grpc-trace-bin", BINARY.rstrip("="))) == TraceContext(TRACE, SPAN, True)


@pytest.mark.parametrize("value", ["", "????", "AAAA", BINARY[:-8], "A" * 1000, BINARY.replace("AAA", "BBB", 1)])
def test_malformed_binary_is_none(value):
    assert find(("grpc-trace-bin", value)) is None


def test_b3_is_understood_in_one_header_and_in_many():
    assert find(("b3", f"{T}-{S}-1-{S}")) == TraceContext(TRACE, SPAN, True)
    assert find(("b3", f"{T}-{S}-d")) == TraceContext(TRACE, SPAN, True)
    assert find(("b3", f"{T}-{S}-0")) == TraceContext(TRACE, SPAN, False)
    assert find(("b3", f"{S}-{S}")) == TraceContext(SPAN, SPAN, None)
    many = [("x-b3-traceid", T), ("x-b3-spanid", S)]
    assert find(*many, ("x-b3-sampled", "1")) == TraceContext(TRACE, SPAN, True)
    assert find(*many, ("x-b3-sampled", "true")) == TraceContext(TRACE, SPAN, True)
    assert find(*many, ("x-b3-flags", "1")) == TraceContext(TRACE, SPAN, True)
    assert find(*many, ("x-b3-sampled", "0")) == TraceContext(TRACE, SPAN, False)
    assert find(*many) == TraceContext(TRACE, SPAN, None)


def test_b3_can_decide_without_naming_a_trace():
    assert find(("b3", "0")) == find(("x-b3-sampled", "0")) == TraceContext(0, 0, False)
    assert find(("b3", "1")) == TraceContext(0, 0, True)


@pytest.mark.parametrize("value", ["", "2", f"{T}", f"{T}x-{S}-1", f"{T}-{S[:-1]}-1", f"{'0' * 32}-{S}-1"])
def test_malformed_b3_is_none(value):
    assert find(("b3", value)) is None


def test_w3c_comes_before_grpc_and_grpc_before_b3():
    other = f"{1:032x}"
    assert find(("b3", f"{other}-{S}-1"), ("traceparent", W3C)).trace_id == TRACE
    assert find(("b3", f"{other}-{S}-1"), ("grpc-trace-bin", BINARY)).trace_id == TRACE
    assert find(("traceparent", "rubbish"), ("b3", f"{T}-{S}-1")).trace_id == TRACE


@pytest.mark.parametrize(
    "fields",
    [
        [("traceparent", W3C), ("tracestate", "a=1")],
        [("grpc-trace-bin", BINARY)],
        [("b3", f"{T}-{S}-1")],
        [("x-b3-traceid", T), ("x-b3-spanid", S), ("x-b3-sampled", "1")],
        [("x-b3-traceid", T), ("x-b3-spanid", S), ("x-b3-flags", "1")],
        [("traceparent", W3C), ("b3", f"{T}-{S}-1"), ("grpc-trace-bin", BINARY)],
    ],
)
def test_the_next_hop_is_told_in_the_forms_of_the_last(fields):
    headers = Headers([("x", "y"), *fields])
    context = find_trace(headers.raw)
    onward = continue_trace(headers, context, 7)
    assert onward["x"] == "y"
    names = {name for name, _ in fields}
    assert names <= {name for name, _ in onward}
    for name in names & {"traceparent", "b3", "grpc-trace-bin", "x-b3-traceid"}:
        of_one = [field for field in onward if field[0] == name or (name[0] == "x" and field[0].startswith("x-b3"))]
        found = find(*of_one)
        assert (found.trace_id, found.span_id, found.sampled) == (TRACE, 7, True)
    assert onward.get("tracestate") == headers.get("tracestate")
    assert len([name for name, _ in onward]) == len({name for name, _ in onward}), "no header is there twice"


def test_b3s_parent_is_the_span_before():
    onward = continue_trace(Headers([("b3", f"{T}-{S}-1")]), TraceContext(TRACE, SPAN, True), 7)
    assert list(onward) == [("b3", f"{T}-{7:016x}-1-{S}")]


def test_a_trace_that_begins_is_told_as_w3c_does():
    assert list(continue_trace(Headers(), TraceContext(TRACE, 0, True), 7)) == [("traceparent", f"00-{T}-{7:016x}-01")]


def test_a_malformed_one_is_replaced_and_its_state_forgotten():
    headers = Headers([("traceparent", "rubbish"), ("tracestate", "a=1")])
    onward = continue_trace(headers, TraceContext(TRACE, 0, True), 7)
    assert list(onward) == [("traceparent", f"00-{T}-{7:016x}-01")]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["traceparent", "tracestate", "b3", "grpc-trace-bin", "x-b3-traceid", "x-b3-spanid"]),
            st.one_of(
                st.text(st.characters(max_codepoint=255), max_size=80),
                st.from_regex(r"\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z"),
            ),
        ),
        max_size=6,
    )
)
def test_no_header_does_any_harm(fields):
    headers = Headers(fields)
    context = find_trace(headers.raw)
    if context is not None:
        assert 0 <= context.trace_id < 1 << 128
        assert 0 <= context.span_id < 1 << 64
        again = find_trace(continue_trace(headers, TraceContext(context.trace_id or 1, 0, True), 9).raw)
        assert again.span_id == 9
