"""What proxies tell each other, damaged: the oracle is that of ``test_bytes_fuzz.py``."""

from hypothesis import strategies as st

from linkerd_proxy.errors import BadRequest
from linkerd_proxy.http.forwarded import make_element, parse_forwarded
from linkerd_proxy.io.transport_header import PREFACE, Header, encode_header, parse_header
from tests.fuzz.budget import fuzz
from tests.fuzz.shapes import damaged, pieces, splits

HEADERS = (
    encode_header(Header(8080)),
    encode_header(Header(443, "web.ns.svc.cluster.local", "http/2")),
    encode_header(Header(1, "a", "http/1", 3)) + b"GET / HTTP/1.1\r\n",
)
FIELDS = (b"\x08\x50", b"\x12\x01a", b"\x1a\x02\x0a\x00", b"\x2a\x03abc", b"\x2b", b"\x2c", b"\xff", b"\x31" + bytes(8))


def _framed(message: bytes) -> bytes:
    return PREFACE + len(message).to_bytes(4, "big") + message


def test_transport_headers() -> None:
    strategy = st.tuples(
        st.one_of(damaged(*HEADERS), pieces(*FIELDS).map(_framed), st.binary().map(_framed)), st.integers(0, 2**32)
    )

    def read(data: bytes) -> tuple[Header, int] | str | None:
        try:
            return parse_header(data)
        except BadRequest as error:
            return error.problem

    def check(example: tuple[bytes, int]) -> None:
        data, seed = example
        whole = read(data)
        so_far = b""
        split = None
        for piece in splits(data, seed):
            so_far += piece
            split = split or read(so_far)
        assert isinstance(split, str) == isinstance(whole, str)
        if not isinstance(whole, str):
            assert split == whole
        if isinstance(whole, tuple):
            header, end = whole
            assert end <= len(data)
            again = encode_header(header)
            assert parse_header(again) == (header, len(again))

    assert fuzz(strategy, check)


FORWARDED = (b"for=a;by=b;host=c;proto=https", b'by="spiffe://a/b", for="[::1]:80"', b'for="a\\"b,;=";by=x , ,for=y')


def test_forwarded() -> None:
    strategy = st.one_of(damaged(*FORWARDED), pieces(b"for=", b'"', b";", b",", b"\\", b"by=a", b" ", b"x"))

    def check(data: bytes) -> None:
        value = data.decode("latin-1")
        try:
            elements = parse_forwarded([value])
        except BadRequest:
            return
        assert parse_forwarded([", ".join(make_element(**element) for element in elements)]) == elements
        assert len(elements) <= value.count("=")

    assert fuzz(strategy, check)
