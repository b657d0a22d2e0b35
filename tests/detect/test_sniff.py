"""What the first bytes of a connection tell, in any pieces."""

import random
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.detect.sniff import MAX_BYTES, MAX_LINE, PREFACE, Sniffer


def sniff(*pieces: bytes):
    """Return the verdict and after how many bytes it came."""
    sniffer = Sniffer()
    fed = 0
    for piece in pieces:
        fed += len(piece)
        if verdict := sniffer.feed(piece):
            assert bytes(sniffer.data) == b"".join(pieces)[:fed]
            return verdict, fed
    return None, fed


def one_by_one(data: bytes):
    return sniff(*(data[i : i + 1] for i in range(len(data))))


@pytest.mark.parametrize(
    ("data", "verdict", "after"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "http/1", 5),
        (b"POST /foo HTTP/1.0\r\n", "http/1", 6),
        (b"OPTIONS * HTTP/1.1\r\n", "http/1", 15),
        (b"CONNECT example.com:443 HTTP/1.1\r\n", "http/1", 29),
        (b"GET http://example.com/ HTTP/1.1\r\n", "http/1", 29),
        (b"PROPFIND /dav HTTP/1.1\r\n", "http/1", 19),
        (b"get / HTTP/1.1\r\n", "http/1", 11),
        (b"\r\nGET / HTTP/1.1\r\n", "http/1", 7),
        (b"\n\nGET / HTTP/1.1\r\n", "http/1", 7),
        (b"GET  / HTTP/1.1\r\n", "http/1", 6),
        (b"GET\t/ HTTP/1.1\r\n", "http/1", 5),
        (b"PRI /x HTTP/1.1\r\n", "http/1", 12),
        (b"PRI * HTTP/1.1\r\n", "http/1", 12),
        (PREFACE + b"\0\0\0\4", "http/2", len(PREFACE)),
        (b"PRI * HTTP/2.0\r\n\r\nXX", "http/1", 12),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX", "http/1", 12),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "not_http", 31),
        (b"SSH-2.0-Go\r\n", "not_http", 11),
        (b"*1\r\n$4\r\nPING\r\n", "not_http", 3),
        (b"GET key\r\n", "not_http", 8),
        (b"set key 0 0 5\r\n", "not_http", 14),
        (b"OPTIONS * RTSP/1.0\r\n", "not_http", 19),
        (b"SOURCE /live ICE/1.0\r\n", "not_http", 21),
        (b"NICK me\r\n", "not_http", 8),
        (b"EHLO mail.example.com\r\n", "not_http", 22),
        (b"\0\0\0\x08\x04\xd2\x16/", "not_http", 1),
        (b"\r\n\r\n\r\nGET / HTTP/1.1", "http/1", 11),  # llhttp and nginx take it
        (b"\r\r\nGET / HTTP/1.1", "http/1", 8),
        (b"\rX", None, 2),
        (b" GET / HTTP/1.1", "http/1", 6),  # http.server takes this and the next ones
        (b"\x1cGET x HTTP/1.1", "http/1", 12),
        (b"GET\xa0x\x85HTTP/1.1", "http/1", 11),
        (b"GET x HTTP/0.9", "http/1", 11),
        ("BREW /\xe0 HTTP/1.1".encode(), "http/1", 14),
        (b"BREW /\0 HTTP/1.1", "not_http", 7),
        (b"{}", "not_http", 1),
        (b"GET", None, 3),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None, 23),
        (b"BREW /pot HTTP", None, 14),
        (b"\r", None, 1),
    ],
)
def test_the_verdict_comes_with_the_first_byte_that_settles_it(data, verdict, after) -> None:
    if data.startswith(b"PRI * HTTP/2.0\r\n\r\n") and verdict == "http/1":
        # The preface is a possible prefix for longer than a request line would be.
        after = next(i for i in range(len(data)) if data[i] != PREFACE[i]) + 1
    assert one_by_one(data) == (verdict, after)
    assert sniff(data)[0] == verdict


@pytest.mark.parametrize("length", range(1, 32))
def test_every_prefix_of_a_request_line_is_http_or_still_open(length: int) -> None:
    data = b"POST /foo/bar/baz?x=1 HTTP/1.1\r\n"[:length]
    assert sniff(data)[0] == ("http/1" if length >= len(b"POST /") else None)


def test_an_unknown_method_has_a_bounded_line_to_show_its_version() -> None:
    fits = b"BREW /" + b"x" * (MAX_LINE - len(b"BREW / HTTP/")) + b" HTTP/"
    assert len(fits) == MAX_LINE
    assert one_by_one(fits) == ("http/1", MAX_LINE)
    longer = b"BREW /x" + fits[6:]
    assert sniff(longer)[0] == "http/1"  # for the codec to refuse: some server has room for it
    assert one_by_one(longer) == ("http/1", MAX_LINE)


def test_spaces_without_an_end_are_bounded_too() -> None:
    assert sniff(b"GET" + b" " * MAX_LINE + b"/")[0] == "http/1"
    assert one_by_one(b"GET" + b" " * MAX_LINE + b"/") == ("http/1", MAX_LINE)


def client_hello(server_name: str | None = "web.example.com", alpn: tuple[str, ...] = ("h2", "http/1.1")) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(list(alpn))
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_a_client_hello_is_tls_when_it_is_complete() -> None:
    data = client_hello()
    assert one_by_one(data) == ("tls", len(data))
    sniffer = Sniffer()
    assert sniffer.feed(data + b"more") == "tls"
    assert sniffer.hello is not None
    assert sniffer.hello.server_name == "web.example.com"


def test_every_byte_after_the_verdict_is_kept() -> None:
    sniffer = Sniffer()
    assert sniffer.feed(b"GET /") == "http/1"
    assert sniffer.feed(b" HTTP/1.1") == "http/1"
    assert bytes(sniffer.data) == b"GET / HTTP/1.1"
    assert repr(sniffer) == "<Sniffer http/1 after 14 bytes>"


def test_no_bytes_keep_it_undecided_beyond_its_cap() -> None:
    rng = random.Random(1)
    for start in (b"", b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03", b"BREW /"):
        data = start + rng.randbytes(8) + b"a" * MAX_BYTES
        assert one_by_one(data)[0] is not None


LIKELY = st.one_of(
    st.binary(max_size=64),
    st.lists(
        st.sampled_from(
            [b"GET", b"BREW", b" ", b"/", b"*", b"HTTP/1.1", b"HTTP/2.0", b"\r\n", b"\n", b"\r", b"a", b"\x16\x03\x01"]
        ),
        max_size=9,
    ).map(b"".join),
    st.integers(0, len(PREFACE)).map(lambda n: PREFACE[:n]),
    st.tuples(st.integers(0, 700), st.integers(0, 255)).map(lambda at: _flipped(client_hello(), *at)),
)


def _flipped(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


@given(LIKELY, st.lists(st.integers(1, 40), max_size=30))
def test_any_split_gives_the_verdict_of_the_whole(data: bytes, sizes: list[int]) -> None:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    pieces.append(data[at:])
    pieces = [piece for piece in pieces if piece]
    whole = sniff(data)[0] if data else None
    assert sniff(*pieces)[0] == whole
    assert one_by_one(data)[0] == whole


@given(LIKELY, st.binary(min_size=1, max_size=30))
def test_a_verdict_never_changes_with_more_bytes(data: bytes, more: bytes) -> None:
    if data and (verdict := sniff(data)[0]):
        assert sniff(data + more)[0] == verdict
