"""Metadata and timeouts, as they stand in header fields."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.core.message import Response
from linkerd_proxy.grpc import GrpcStatus
from linkerd_proxy.grpc.metadata import encode_timeout, metadata_fields, read_metadata, read_timeout
from linkerd_proxy.grpc.status import final_status, refusal_of, status_fields
from linkerd_proxy.headers import Headers

KEYS = st.from_regex(r"x-[0-9a-z_.-]{1,8}", fullmatch=True).filter(lambda key: not key.endswith("-bin"))
TEXTS = st.from_regex(r"[\x20-\x7e]{0,20}", fullmatch=True)
PAIRS = st.one_of(st.tuples(KEYS, TEXTS), st.tuples(KEYS.map(lambda key: key + "-bin"), st.binary(max_size=20)))


@given(st.lists(PAIRS, max_size=6))
def test_metadata_survives_the_wire(pairs):
    assert list(read_metadata(Headers(metadata_fields(pairs)))) == pairs


def test_joined_and_padded_binary_values_are_told_apart_and_broken_ones_left_out():
    headers = Headers([("a-bin", "AP4=,AAE"), ("b-bin", "?"), ("grpc-status", "0"), ("content-type", "x"), ("c", "d")])
    assert read_metadata(headers) == (("a-bin", b"\x00\xfe"), ("a-bin", b"\x00\x01"), ("c", "d"))


@given(st.floats(0, 1e9))
def test_a_timeout_is_told_at_most_a_part_in_100_000_too_long(seconds):
    text = encode_timeout(seconds)
    assert len(text) <= 9
    assert seconds * (1 - 1e-9) <= read_timeout(text) <= seconds * (1 + 1e-5) + 1e-9


@pytest.mark.parametrize(
    ("text", "seconds"), [("1H", 3600), ("2M", 120), ("3S", 3), ("4m", 0.004), ("5u", 5e-6), ("6n", 6e-9)]
)
def test_timeouts_have_units(text, seconds):
    assert read_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "S", "-1S", "1s", "123456789S", "1.5S", "1S ", "\u0661S"])
def test_what_is_no_timeout_is_refused(text):
    with pytest.raises(ValueError, match="grpc-timeout"):
        read_timeout(text)


@given(st.text(max_size=50))
def test_a_status_message_survives_the_wire(text):
    encodable = text.encode("utf-8", "replace").decode()
    response = Response(200, status_fields(GrpcStatus.ABORTED, encodable))
    error = final_status(response)
    assert (error.status, error.message) == (GrpcStatus.ABORTED, encodable)
    assert all(0x20 <= ord(char) < 0x7F for _, value in response.headers for char in value)


@pytest.mark.parametrize(
    ("status", "meant"),
    [
        (400, "INTERNAL"), (401, "UNAUTHENTICATED"), (403, "PERMISSION_DENIED"), (404, "UNIMPLEMENTED"),
        (429, "UNAVAILABLE"), (502, "UNAVAILABLE"), (503, "UNAVAILABLE"), (504, "UNAVAILABLE"), (500, "UNKNOWN"),
    ],
)  # fmt: skip
def test_answers_of_others_than_grpc_mean_a_status(status, meant):
    assert refusal_of(Response(status)).status.name == meant
    assert refusal_of(Response(status, [("grpc-status", "5")])) is None


def test_an_answer_that_is_no_grpc_is_unknown():
    assert "text/html" in str(refusal_of(Response(200, [("content-type", "text/html")])))
    assert refusal_of(Response(200, [("content-type", "application/grpc+proto")])) is None


@pytest.mark.parametrize("status", ["", "x", "99", "-1"])
def test_a_status_that_is_none_is_unknown(status):
    assert final_status(Response(200, [("grpc-status", status)])).status is GrpcStatus.UNKNOWN
    assert final_status(Response(200)).status is GrpcStatus.UNKNOWN
