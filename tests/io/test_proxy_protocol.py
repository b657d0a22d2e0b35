"""PROXY headers: what is encoded is read back, in any pieces, and nothing malformed gets through."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.address import Address, UnixAddress
from linkerd_proxy.errors import BadRequest
from linkerd_proxy.io.proxy_protocol import (
    NotProxied,
    crc32c,
    encode_v1,
    encode_v2,
    parse_header,
)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"

ports = st.integers(0, 65535)
v4 = st.builds(Address, st.ip_addresses(v=4).map(str), ports)
v6 = st.builds(Address, st.ip_addresses(v=6).map(str), ports)
# On the wire, an abstract name without a letter and no name at all are the same 108 zeros.
paths = st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1, max_size=100).filter(
    lambda it: it != "@"
)
unix = st.builds(UnixAddress, paths)
tlvs = st.lists(st.tuples(st.integers(0x05, 0xFF), st.binary(max_size=60)), max_size=5).map(tuple)


@given(st.one_of(st.tuples(v4, v4), st.tuples(v6, v6)), st.binary(max_size=20))
def test_version_1_reads_back(pair, rest):
    header = encode_v1(*pair)
    assert len(header) <= 107
    read = parse_header(header + rest)
    assert read is not None
    assert (read.source, read.destination, read.tlvs, read.length) == (*pair, (), len(header))


@given(
    st.one_of(st.tuples(v4, v4), st.tuples(v6, v6), st.tuples(unix, unix)), tlvs, st.booleans(), st.binary(max_size=9)
)
def test_version_2_reads_back(pair, extensions, checksum, rest):
    header = encode_v2(*pair, tlvs=extensions, checksum=checksum)
    read = parse_header(header + rest)
    assert read is not None
    assert (read.source, read.destination, read.length) == (*pair, len(header))
    assert read.tlvs[: len(extensions)] == extensions
    assert [kind for kind, _ in read.tlvs[len(extensions) :]] == ([0x03] if checksum else [])


@given(st.tuples(v4, v4), st.sampled_from([1, 2]))
def test_every_prefix_asks_for_more(pair, version):
    header = encode_v1(*pair) if version == 1 else encode_v2(*pair, tlvs=((0x20, b"x"),))
    for end in range(len(header)):
        assert parse_header(header[:end]) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_read_refused_or_waited_for(data):
    for beginning in (b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"):
        try:
            header = parse_header(beginning + data)
        except (BadRequest, NotProxied):
            continue
        assert header is None or header.length <= len(beginning + data)


@given(st.tuples(v6, v6), st.data())
def test_a_flipped_bit_fails_the_checksum(pair, data):
    header = bytearray(encode_v2(*pair, checksum=True))
    at = data.draw(st.integers(16, len(header) - 8))
    header[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BadRequest, match="checksum is wrong"):
        parse_header(bytes(header))


def test_the_crc_is_castagnolis():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720 B.4


@pytest.mark.parametrize("line", [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n"])
def test_unknown_names_nobody(line):
    header = parse_header(line + b"GET")
    assert header is not None
    assert (header.source, header.destination, header.length) == (None, None, len(line))


@pytest.mark.parametrize(
    "head",
    [b"\x20\x00\x00\x00", b"\x20\x11\x00\x0c" + b"a" * 12, b"\x21\x00\x00\x05" + b"b" * 5],
    ids=["local", "local with addresses", "unspec"],
)
def test_local_and_unspecified_name_nobody(head):
    header = parse_header(SIGNATURE + head + b"GET")
    assert header is not None
    assert (header.source, header.destination, header.length) == (None, None, len(SIGNATURE + head))


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY \r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
        b"PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 ::1 ::2 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY TCP4 localhost 5.6.7.8 1 2\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 ١ 2\r\n".encode(),
        b"PROXY TCP4 1.2.3.4\n",
        b"PROXY " + b"x" * 101,
        b"PROXY UNKNOWN" + b"x" * 93 + b"\r\n",
    ],
)
def test_a_malformed_version_1_is_refused(data):
    with pytest.raises(BadRequest, match="malformed PROXY header"):
        parse_header(data)


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (b"\x11\x11\x00\x0c", "unknown version or command 0x11"),
        (b"\x22\x11\x00\x0c", "unknown version or command 0x22"),
        (b"\x21\x11\x10\x01", "it says 4097 bytes follow, 4096 are allowed"),
        (b"\x21\x12\x00\x0c" + bytes(12), "family 0x12 is no stream"),
        (b"\x21\x41\x00\x00", "family 0x41 is no stream"),
        (b"\x21\x11\x00\x0b" + bytes(11), "shorter than its addresses"),
        (b"\x21\x31\x00\x0c" + bytes(12), "shorter than its addresses"),
        (b"\x21\x11\x00\x0e" + bytes(14), "an extension is cut short"),
        (b"\x21\x11\x00\x10" + bytes(12) + b"\x05\x00\x02x", "an extension is cut short"),
        (b"\x21\x11\x00\x10" + bytes(12) + b"\x03\x00\x01x", "not 4 bytes long"),
    ],
)
def test_a_malformed_version_2_is_refused(head, problem):
    with pytest.raises(BadRequest, match=problem):
        parse_header(SIGNATURE + head)


@pytest.mark.parametrize(
    "data", [b"G", b"PROXX", b"PROXY\t", b"\r\n\r\n\r\n", b"\r\n\r\n\0\r\nQUIT\r", b"\x16\x03\x01"]
)
def test_other_protocols_are_told_at_once(data):
    with pytest.raises(NotProxied):
        parse_header(data)


def test_padding_is_dropped():
    header = encode_v2(Address("1.2.3.4", 1), Address("5.6.7.8", 2), tlvs=((0x04, bytes(9)), (0xE0, b"x")))
    read = parse_header(header)
    assert read is not None
    assert read.tlvs == ((0xE0, b"x"),)


def test_mixed_families_become_ipv6_and_names_unknown():
    mixed = (Address("1.2.3.4", 1), Address("::1", 2))
    assert encode_v1(*mixed) == b"PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n" or encode_v1(*mixed) == (
        b"PROXY TCP6 ::ffff:102:304 ::1 1 2\r\n"
    )
    assert encode_v2(*mixed)[13] == 0x21
    for pair in ((None, None), (Address("name", 1), Address("::1", 1)), (UnixAddress("/x"), Address("::1", 1))):
        assert encode_v1(*pair) == b"PROXY UNKNOWN\r\n"
        assert encode_v2(*pair) == SIGNATURE + b"\x20\x00\x00\x00"


def test_a_header_that_would_not_fit_is_not_made():
    with pytest.raises(ValueError, match="65,535"):
        encode_v2(None, None, tlvs=((0xE0, bytes(60_000)), (0xE1, bytes(6_000))))


def test_the_limit_can_be_raised():
    header = encode_v2(Address("1.2.3.4", 1), Address("5.6.7.8", 2), tlvs=((0xE0, bytes(5000)),))
    with pytest.raises(BadRequest):
        parse_header(header)
    read = parse_header(header, max_length=8192)
    assert read is not None
    assert struct.unpack("!H", header[14:16])[0] > 5000
