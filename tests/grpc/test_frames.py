"""Messages in their frames: cut anywhere, compressed, too large, and malformed."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.grpc import GrpcError, GrpcStatus
from linkerd_proxy.grpc.frames import Decoder, frame

compress = gzip.compress


def packed(data):
    return b"\1" + len(data).to_bytes(4, "big") + data


def everything(decoder):
    found = []
    while (message := decoder.next()) is not None:
        found.append(message)
    return found


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 40), min_size=1), st.booleans())
def test_messages_survive_any_cuts(messages, cuts, zipped):
    wire = b"".join(packed(compress(one)) if zipped else frame(one) for one in messages)
    decoder = Decoder(encoding="gzip" if zipped else None)
    found = []
    at = 0
    while at < len(wire):
        for cut in cuts:
            decoder.feed(wire[at : at + cut])
            at += cut
            found += everything(decoder)
    assert found == messages
    assert not decoder.partial


@given(st.binary(max_size=200))
def test_garbage_is_messages_or_an_error_and_never_anything_else(data):
    for encoding in (None, "gzip"):
        decoder = Decoder(100, encoding)
        decoder.feed(data)
        try:
            assert all(len(message) <= 100 for message in everything(decoder))
        except GrpcError as error:
            assert error.status in {GrpcStatus.INTERNAL, GrpcStatus.RESOURCE_EXHAUSTED}  # noqa: PT017


def test_a_message_at_the_limit_passes_and_one_byte_more_is_refused_from_its_prefix_on():
    decoder = Decoder(10)
    decoder.feed(frame(bytes(10)))
    assert decoder.next() == bytes(10)
    decoder.feed(frame(bytes(11))[:5])
    assert decoder.ready
    with pytest.raises(GrpcError, match="RESOURCE_EXHAUSTED: a message has 11 bytes; max_message allows 10"):
        decoder.next()


def test_a_bomb_is_not_inflated_beyond_the_limit():
    decoder = Decoder(1 << 20, "gzip")
    decoder.feed(packed(compress(bytes(100 << 20))))
    with pytest.raises(GrpcError, match="RESOURCE_EXHAUSTED: a message has more than that many bytes"):
        decoder.next()


@pytest.mark.parametrize(
    ("encoding", "wire"),
    [
        (None, packed(compress(b"x"))),
        ("identity", packed(compress(b"x"))),
        ("gzip", b"\2" + packed(compress(b"x"))[1:]),
        ("gzip", packed(b"no gzip")),
        ("gzip", packed(zlib.compress(b"x"))),
        ("gzip", packed(compress(b"x")[:-1])),
        ("gzip", packed(compress(b"x") + b"more")),
        ("gzip", packed(b"")),
    ],
)
def test_what_is_malformed_is_internal(encoding, wire):
    decoder = Decoder(encoding=encoding)
    decoder.feed(wire)
    with pytest.raises(GrpcError, match="INTERNAL"):
        decoder.next()


def test_plain_messages_may_stand_among_compressed_ones():
    decoder = Decoder(encoding="gzip")
    decoder.feed(frame(b"plain") + packed(compress(b"zipped")))
    assert everything(decoder) == [b"plain", b"zipped"]


def test_an_encoding_that_is_not_known_is_unimplemented():
    with pytest.raises(GrpcError, match="UNIMPLEMENTED"):
        Decoder(encoding="snappy")


def test_half_a_message_is_partial():
    decoder = Decoder()
    decoder.feed(frame(b"abc")[:-1])
    assert (decoder.ready, decoder.partial) == (False, True)
