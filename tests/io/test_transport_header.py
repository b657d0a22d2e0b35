"""Transport headers: what is encoded is read back, in any pieces; protobuf's rules hold, and nothing malformed passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.errors import BadRequest
from linkerd_proxy.io.transport_header import ALPN, MAX_LENGTH, PREFACE, Header, encode_header, parse_header

labels = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=2, max_size=5).map(".".join).filter(lambda it: not it.replace(".", "").isdigit())
headers = st.builds(
    Header,
    st.integers(1, 65535),
    st.none() | names,
    st.sampled_from([None, "http/1", "http/2"]),
    st.integers(0, 20),
)


def whole(message: bytes) -> bytes:
    return PREFACE + len(message).to_bytes(4, "big") + message


@given(headers, st.binary(max_size=30))
def test_a_header_reads_back(header, rest):
    data = encode_header(header)
    assert parse_header(data + rest) == (header, len(data))


@given(headers)
def test_every_prefix_asks_for_more(header):
    data = encode_header(header)
    assert [parse_header(data[:end]) for end in range(len(data))] == [None] * len(data)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        # worked out by hand from transport.proto
        (Header(4143), "08af20"),
        (Header(80, "web.ns.svc.cluster.local"), "08501218" + b"web.ns.svc.cluster.local".hex()),
        (Header(8080, None, "http/1"), "08903f1a020a00"),
        (Header(65535, "a", "http/2"), "08ffff031201611a021200"),
    ],
)
def test_the_bytes_are_linkerds(header, message):
    assert PREFACE == b"transport.l5d.io/v1\r\n\r\n"
    assert ALPN == "transport.l5d.io/v1"
    assert encode_header(header) == whole(bytes.fromhex(message))


@pytest.mark.parametrize(
    ("message", "header"),
    [
        ("085020ff01", Header(80)),  # an unknown number
        ("08502a03616263", Header(80)),  # unknown bytes
        ("0850310102030405060708", Header(80)),  # an unknown fixed64
        ("08503d01020304", Header(80)),  # an unknown fixed32
        ("08502b280133342c", Header(80)),  # groups, one in the other
        ("08500851", Header(81)),  # the last one counts
        ("1201610850120162", Header(80, "b")),
        ("08501200", Header(80)),  # an empty name is none
        ("08d0808080808080808000", None),  # a number of more bytes than it needs
        ("08501a00", Header(80)),  # a session of no known kind
        ("08501a021a00", Header(80)),
        ("08501a020a001a021200", Header(80, None, "http/2")),
        ("08501a040a001200", Header(80, None, "http/2")),
        ("08501a040a020801", Header(80, None, "http/1")),  # fields that Http1 does not have yet
        ("0850120341422e", Header(80, "ab")),  # case, and a dot at the end
    ],
)
def test_protobufs_rules_hold(message, header):
    read = parse_header(whole(bytes.fromhex(message)))
    assert read is not None
    assert read[0] == (header or Header(80))


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("", "0 is no port"),
        ("0800", "0 is no port"),
        ("08808004", "65536 is no port"),
        ("08ffffffffffffffffff01", "18446744073709551615 is no port"),  # -1
        ("08d08080808001", "is no port"),  # 80 and something above 32 bits
        ("08", "cut short"),
        ("08ff", "cut short"),
        ("08ffffffffffffffffffff01", "too long"),
        ("08ffffffffffffffffff7f", "too long"),
        ("0a0150", "another type"),  # a port of bytes
        ("08501001", "another type"),  # a name of a number
        ("08501801", "another type"),  # a session of a number
        ("085012", "cut short"),
        ("085012036162", "cut short"),
        ("085012ffffffff0f61", "cut short"),
        ("08501a020a01", "cut short"),
        ("08501a030a0108", "cut short"),
        ("085031010203", "cut short"),
        ("08502b2801", "cut short"),  # a group without an end
        ("08502b34", "of no type"),  # an end of another group
        ("08502c", "of no type"),
        ("08502e", "of no type"),
        ("08502f", "of no type"),
        ("0850" + "2b" * 100 + "2c" * 100, "of no type"),  # too deep
        ("08500001", "no valid number"),
        ("08508080808080800101", "no valid number"),
        ("08501203" + "c3bc61", "not ASCII"),
        ("08501203" + b"a b".hex(), "no name"),
        ("08501203" + b"a\0b".hex(), "no name"),
        ("08501203" + b"a:1".hex(), "no name"),
        ("08501203" + b"a/b".hex(), "no name"),
        ("08501203" + b"[::".hex(), "no name"),
        ("08501203" + b".ab".hex(), "no name"),
        ("08501203" + b"-ab".hex(), "no name"),
        ("08501204" + b"a..b".hex(), "no name"),
        ("0850120a" + b"unix:/tmp/".hex(), "no name"),
        ("08501209" + b"127.0.0.1".hex(), "no name"),  # an address would pass for one that is meant here
        ("08501240" + b"a".hex() * 64, "no name"),
        ("085012fe01" + (b"a." * 127).hex(), "no name"),
    ],
)
def test_a_malformed_header_is_refused(message, problem):
    with pytest.raises(BadRequest, match=f"malformed transport header: .*{problem}"):
        parse_header(whole(bytes.fromhex(message)))


def test_the_longest_name_passes():
    name = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    assert len(name) == 253
    header = Header(80, name)
    assert parse_header(encode_header(header)) == (header, 23 + 4 + 2 + 3 + 253)


@pytest.mark.parametrize("data", [b"G", b"PRI * HTTP/2.0\r\n", b"transport.l5d.io/v2\r\n\r\n", PREFACE[:-1] + b"\r"])
def test_another_preface_is_refused_at_once(data):
    with pytest.raises(BadRequest, match="the preface is missing"):
        parse_header(data)


def test_what_says_that_it_is_too_long_is_refused_before_it_comes():
    room = MAX_LENGTH - 27
    assert parse_header(PREFACE + room.to_bytes(4, "big")) is None
    for size in (room + 1, 2**31, 2**32 - 1):
        with pytest.raises(BadRequest, match="65536 are allowed"):
            parse_header(PREFACE + size.to_bytes(4, "big"))
    full = whole(b"\x08\x50\x2a" + _length(room - 6) + bytes(room - 6))
    assert len(full) == MAX_LENGTH
    assert parse_header(full) == (Header(80), MAX_LENGTH)


def _length(size: int) -> bytes:
    return bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14])


@given(st.binary(max_size=100))
def test_any_message_is_read_or_refused(data):
    for message in (data, b"\x08\x50" + data, b"\x08\x50\x1a" + data, b"\x08\x50\x12" + data):
        try:
            read = parse_header(whole(message) + b"rest")
        except BadRequest:
            continue
        assert read is not None
        header, end = read
        assert end == 27 + len(message)
        assert parse_header(encode_header(header)) == (header, len(encode_header(header)))


@pytest.mark.parametrize("header", [Header(0), Header(65536), Header(80, ""), Header(80, "a b"), Header(80, "1.2.3.4")])
def test_what_the_other_side_would_refuse_is_not_made(header):
    with pytest.raises(ValueError, match="can't name"):
        encode_header(header)
