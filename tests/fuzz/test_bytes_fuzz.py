"""Parsers that face the network without a connection being trusted: detection, PROXY protocol, addresses.

Run by ``nox -s fuzz``; ``LINKERD_PROXY_FUZZ_SECONDS`` is the budget of each target. The oracle: nothing but the declared
exceptions, the same verdict however the bytes were split, and no example that takes long.
"""

from contextlib import suppress

from hypothesis import strategies as st

from linkerd_proxy.address import parse_address, split_authority
from linkerd_proxy.core.message import Request
from linkerd_proxy.detect.sniff import MAX_BYTES, PREFACE, Sniffer
from linkerd_proxy.errors import BadRequest, InvalidConfiguration
from linkerd_proxy.io.client_hello import ClientHello, ClientHelloReader
from linkerd_proxy.io.proxy_protocol import NotProxied, encode_v1, encode_v2, parse_header
from linkerd_proxy.route.key import Key, parse_key
from linkerd_proxy.route.match import Match
from linkerd_proxy.route.table import Table
from tests.fuzz.budget import fuzz
from tests.fuzz.shapes import damaged, pieces, splits
from tests.io.test_client_hello import HELLO, real_hello

LINES = (
    b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"BREW /pot HTTP/1.1\r\n",
    b"CONNECT a:443 HTTP/1.1\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    PREFACE,
)
WORDS = (b"GET", b"PRI", b"BREW", b" ", b"/", b"*", b"HTTP/1.1", b"HTTP/2.0", b"\r\n", b"\n", b"\r", b"\t", PREFACE)
HELLOS = (HELLO, real_hello(), real_hello(None, ()), HELLO[:5] + HELLO[5:9] * 3)
SPLIT = st.integers(0, 2**32)


def test_sniffing() -> None:
    strategy = st.tuples(st.one_of(st.binary(), pieces(*WORDS), damaged(*LINES, *HELLOS)), st.integers(0, 1), SPLIT)

    def check(example: tuple[bytes, int, int]) -> None:
        start, long, seed = example
        data = start + b"x" * (MAX_BYTES * long)
        whole, split = Sniffer(), Sniffer()
        verdict = whole.feed(data) if data else None
        assert bytes(whole.data) == data
        assert (verdict is not None) or not long
        last = None
        for piece in splits(data, seed):
            now = split.feed(piece)
            assert last is None or now == last
            last = now
        assert (last, split.hello, split.data) == (verdict, whole.hello, whole.data)

    assert fuzz(strategy, check)


def test_client_hellos() -> None:
    strategy = st.tuples(st.one_of(damaged(*HELLOS), st.binary().map(lambda b: b"\x16\x03\x01" + b)), SPLIT)

    def check(example: tuple[bytes, int]) -> None:
        data, seed = example
        whole, split = ClientHelloReader(), ClientHelloReader()
        verdict = whole.feed(data) if data else None
        last = None
        for piece in splits(data, seed):
            last = split.feed(piece)
        assert (last, split.hello) == (verdict, whole.hello)
        assert (verdict is True) == isinstance(whole.hello, ClientHello)

    assert fuzz(strategy, check)


def test_proxy_headers() -> None:
    source, target = parse_address("192.0.2.1:1000"), parse_address("192.0.2.2:80")
    source6, target6 = parse_address("[2001:db8::1]:1000"), parse_address("[2001:db8::2]:80")
    seeds = (
        encode_v1(source, target),
        encode_v1(source6, target6),
        b"PROXY UNKNOWN\r\n",
        encode_v2(source, target),
        encode_v2(source6, target6),
        encode_v2(parse_address("unix:/run/a"), parse_address("unix:@b")),
        encode_v2(None, None),
    )
    strategy = st.one_of(damaged(*seeds), pieces(*seeds, b"PROXY ", b"TCP4 ", b" ", b"1", b"65535", b"\r\n"))

    def check(data: bytes) -> None:
        try:
            header = parse_header(data)
        except (NotProxied, BadRequest):
            return
        if header is None:
            return
        assert 0 < header.length <= len(data)
        assert parse_header(data[: header.length]) == header
        assert parse_header(data[: header.length] + b"more") == header

    assert fuzz(strategy, check)


def test_addresses() -> None:
    seeds = (b"127.0.0.1:80", b"[::1]:80", b"[fe80::1%eth0]:80", b":80", b"8080", b"a-b.example.com.:443", b"unix:@a")
    strategy = st.one_of(
        st.text(max_size=300),
        damaged(*seeds).map(lambda b: b.decode("latin-1")),
        pieces(*seeds).map(lambda b: b.decode("utf-8", "replace")),
    )

    def check(text: str) -> None:
        for port in (None, 80):
            with suppress(InvalidConfiguration):
                address = parse_address(text, default_port=port)
                assert parse_address(str(address)) == address, "str() gives the form that parse_address reads"

    assert fuzz(strategy, check)


def test_routes() -> None:
    seeds = (b"/", b"/api", b"a.example.com", b"*.example.com/x", b"[::1]:80/x", b"a:80", b"..", b":", b"//", b"%2f")
    text = pieces(*seeds).map(lambda b: b.decode("latin-1"))

    def fits(key: Key, authority: str, path: str) -> bool:
        name, port = split_authority(authority.lower())
        name = name.removesuffix(".")
        hosts = [name, f"{name}:{port}"] if port else [name]
        if key.host.startswith("*"):
            there = any(host.endswith(key.host[1:]) and len(host) >= len(key.host) for host in hosts)
        else:
            there = key.host in {"", *hosts}
        return there and f"{path}/".startswith(f"{key.path}/")

    def check(example: tuple[list[str], str, str]) -> None:
        texts, authority, rest = example
        path = "/" + rest
        keys: set[Key] = set()
        for one in texts:
            with suppress(InvalidConfiguration):
                keys.add(parse_key(one))
        assert {parse_key(str(key)) for key in keys} == keys
        table = Table([(key.host, Match(key.path or "/"), key) for key in keys])
        found = table.find(Request("GET", path, authority=authority))
        fitting = [key for key in keys if fits(key, authority, path.partition("?")[0])]
        assert (found is None) == (not fitting)
        if found is not None:
            assert found in fitting
            assert not [key for key in fitting if key.host == found.host and len(key.path) > len(found.path)]
        assert table.nearest(authority, path) in {None, *map(str, keys)}

    assert fuzz(st.tuples(st.lists(text, max_size=6), text, text), check)
