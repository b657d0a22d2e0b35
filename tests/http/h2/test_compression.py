"""HPACK against the hpack package in both directions, and its limits."""

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.http.h2.codes import ErrorCode, Violation
from linkerd_proxy.http.h2.decoder import Decoder, NeverIndexed
from linkerd_proxy.http.h2.encoder import Encoder

NAMES = st.sampled_from(
    [b":path", b"x", b"content-type", b"cookie", b"authorization", b"x-request-id", b"date", b"x-" + b"n" * 150]
)
VALUES = st.one_of(st.sampled_from([b"", b"a", b"text/plain", b"v" * 130, b"w" * 3000]), st.binary(max_size=40))
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=8)
BLOCKS = st.lists(st.one_of(FIELDS, st.integers(0, 8192)), max_size=12)


def tuples(fields):
    return [(bytes(name), bytes(value)) for name, value in fields]


@given(BLOCKS)
def test_hpack_reads_what_we_write(blocks):
    encoder, decoder = Encoder(), hpack.Decoder()
    for item in blocks:
        if isinstance(item, int):
            encoder.resize(item)
            continue
        for _ in range(2):  # the second time it may come from the memo
            assert tuples(decoder.decode(encoder.encode(item), raw=True)) == item


@given(BLOCKS, st.booleans())
def test_we_read_what_hpack_writes(blocks, huffman):
    encoder, decoder = hpack.Encoder(), Decoder(1 << 20, 1000)
    for item in blocks:
        if isinstance(item, int):
            if min(item, 4096) != encoder.header_table_size:  # hpack forgets to tell if it is set to the same twice
                encoder.header_table_size = min(item, 4096)
                decoder.decode(encoder.encode([]))
            continue
        for _ in range(2):
            assert tuples(decoder.decode(encoder.encode(item, huffman=huffman)).fields) == item


@given(BLOCKS)
def test_we_read_what_we_write(blocks):
    encoder, decoder = Encoder(), Decoder(1 << 20, 1000)
    for item in blocks:
        if isinstance(item, int):
            encoder.resize(item)
        else:
            assert decoder.decode(encoder.encode(item)).fields == item


@given(st.binary(max_size=200))
def test_garbage_is_a_violation_or_fields(data):
    decoder = Decoder(4096, 100)
    outcome = None
    try:
        assert len(decoder.decode(data).fields) <= 100
    except Violation as violation:
        outcome = violation.code
    assert outcome in {None, ErrorCode.COMPRESSION_ERROR, ErrorCode.ENHANCE_YOUR_CALM}


def test_the_peer_does_not_size_our_table():
    encoder = Encoder()
    encoder.resize(2**31 - 1)
    decoder = hpack.Decoder()
    for number in range(300):
        fields = [(b"x-%d" % number, b"v" * 100)]
        assert tuples(decoder.decode(encoder.encode(fields), raw=True)) == fields
    assert encoder._size <= 4096


def test_many_changes_of_the_table_are_told_as_two():
    encoder = Encoder()
    for size in (4096, 0, 100, 50, 4096, 2000):
        encoder.resize(size)
    assert encoder.encode([]) == b"\x20\x3f\xb1\x0f"  # 0, then 2000


def test_equal_blocks_are_one_object_until_the_table_changes():
    encoder, decoder = Encoder(), Decoder(4096, 100)
    first = encoder.encode([(b"x", b"y")])
    decoder.decode(first)
    again = encoder.encode([(b"x", b"y")])
    assert len(again) == 1
    block = decoder.decode(again)
    assert decoder.decode(encoder.encode([(b"x", b"y")])) is block
    decoder.decode(encoder.encode([(b"z", b"y")]))
    assert decoder.decode(encoder.encode([(b"x", b"y")])).fields == block.fields


def test_paths_and_secrets_stay_out_of_the_table():
    encoder = Encoder()
    encoder.encode([(b":path", b"/a"), (b"authorization", b"secret"), (b"cookie", b"a=b"), NeverIndexed((b"x", b"y"))])
    assert encoder._size == 0


def test_never_indexed_fields_stay_so_from_hop_to_hop():
    decoder = Decoder(4096, 100)
    (field,) = decoder.decode(b"\x10\x01x\x01y").fields
    assert isinstance(field, NeverIndexed)
    assert Encoder().encode([field]) == b"\x10\x01x\x01y"


@pytest.mark.parametrize(("size", "count"), [(70, 100), (4096, 2)])
def test_lists_above_a_limit_keep_the_table_right(size, count):
    encoder, decoder = hpack.Encoder(), Decoder(size, count)
    block = decoder.decode(encoder.encode([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]))
    assert block.oversized
    assert len(block.fields) == 2
    assert decoder.decode(encoder.encode([(b"c", b"3")])).fields == [(b"c", b"3")]
