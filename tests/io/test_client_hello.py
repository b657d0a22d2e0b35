"""Reading ClientHellos: real ones, split ones, and ones that are none."""

import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.io.client_hello import MAX_BYTES, MAX_HELLO, ClientHello, ClientHelloReader


def real_hello(server_name: str | None = "web.example.com", alpn: tuple[str, ...] = ("h2", "http/1.1"), **options):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    for name, value in options.items():
        setattr(context, name, value)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=server_name).do_handshake()
    return outgoing.read()


def vector(width: int, data: bytes) -> bytes:
    return len(data).to_bytes(width, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, data)


def sni(*names: bytes) -> bytes:
    return extension(0, vector(2, b"".join(b"\0" + vector(2, name) for name in names)))


def alpn(*names: bytes) -> bytes:
    return extension(16, vector(2, b"".join(vector(1, name) for name in names)))


def message(
    extensions: bytes | None = b"",
    *,
    kind: int = 1,
    version: bytes = b"\3\3",
    session: bytes = vector(1, b"s" * 32),
    ciphers: bytes = vector(2, b"\x13\x01"),
    compression: bytes = vector(1, b"\0"),
    after: bytes = b"",
) -> bytes:
    body = version + b"r" * 32 + session + ciphers + compression
    if extensions is not None:
        body += vector(2, extensions)
    return bytes([kind]) + vector(3, body + after)


def record(data: bytes, *, kind: int = 22, version: bytes = b"\3\1") -> bytes:
    return bytes([kind]) + version + vector(2, data)


def read(data: bytes) -> ClientHello | bool | None:
    reader = ClientHelloReader()
    whole = reader.feed(data) if data else None
    steps = ClientHelloReader()
    single = None
    for index in range(len(data)):
        single = steps.feed(data[index : index + 1])
        if single is not None:
            break
    assert single == whole
    assert steps.hello == reader.hello
    return reader.hello if whole else whole


@pytest.mark.parametrize("name", ["web.example.com", None])
@pytest.mark.parametrize("offer", [("h2", "http/1.1"), ()])
@pytest.mark.parametrize("options", [{}, {"maximum_version": ssl.TLSVersion.TLSv1_2}])
def test_a_real_hello_tells_its_name_and_protocols(name, offer, options) -> None:
    assert read(real_hello(name, offer, **options)) == ClientHello(name, tuple(p.encode() for p in offer))


def test_every_prefix_of_a_real_hello_asks_for_more() -> None:
    data = real_hello()
    for length in range(1, len(data)):
        assert ClientHelloReader().feed(data[:length]) is None
    assert ClientHelloReader().feed(data) is True


def test_every_split_in_two_gives_the_same() -> None:
    data = real_hello()
    for at in range(1, len(data)):
        reader = ClientHelloReader()
        assert reader.feed(data[:at]) is None
        assert reader.feed(data[at:]) is True
        assert reader.hello == ClientHello("web.example.com", (b"h2", b"http/1.1"))


def test_it_may_be_split_over_records_at_every_byte() -> None:
    inner = real_hello()[5:]
    for at in range(1, len(inner)):
        split = record(inner[:at]) + record(inner[at:], version=b"\3\3")
        reader = ClientHelloReader()
        assert reader.feed(split) is True
        assert reader.hello == ClientHello("web.example.com", (b"h2", b"http/1.1"))


def test_it_may_be_split_into_records_of_one_byte() -> None:
    inner = message(sni(b"a.example"))
    assert read(b"".join(record(inner[i : i + 1]) for i in range(len(inner)))) == ClientHello("a.example")


def test_http_is_ruled_out_at_its_first_byte() -> None:
    assert ClientHelloReader().feed(b"G") is False


def test_grease_and_large_key_shares_are_taken() -> None:
    # RFC 8701 reserves 0x?a?a; X25519MLKEM768's client share has 1216 bytes.
    extensions = (
        extension(0x0A0A, b"")
        + sni(b"Web.Example.COM")
        + extension(51, vector(2, b"\xda\xda\0\1\0" + b"\x11\xec" + vector(2, b"k" * 1216)))
        + alpn(b"\xea\xea", b"h2")
        + extension(0xFAFA, b"\0")
    )
    assert read(record(message(extensions))) == ClientHello("web.example.com", (b"\xea\xea", b"h2"))


def test_a_hello_without_extensions_is_one() -> None:
    assert read(record(message(None))) == ClientHello()
    assert read(record(message(b""))) == ClientHello()


def test_what_follows_the_hello_does_not_matter() -> None:
    assert read(record(message() + b"\1\2\3")) == ClientHello()
    assert read(record(message()) + b"\xff\xff") == ClientHello()


def test_the_largest_hello_is_taken_and_one_byte_more_is_not() -> None:
    spare = MAX_HELLO - len(message(extension(21, b"")))
    largest = record(message(extension(21, b"\0" * spare)))
    assert len(largest) == MAX_BYTES
    reader = ClientHelloReader()
    assert reader.feed(largest) is True
    inner = message(extension(21, b"\0" * (spare + 1)))
    assert ClientHelloReader().feed(record(inner[:4])) is False


def test_record_headers_count_against_the_cap() -> None:
    inner = message(extension(21, b"\0" * 4000))
    data = b"".join(record(inner[i : i + 1]) for i in range(len(inner)))
    assert len(data) > MAX_BYTES
    assert read(data) is False


MALFORMED = {
    "alert record": record(message(), kind=21),
    "record version 2": record(message(), version=b"\2\0"),
    "record version 3.5": record(message(), version=b"\3\5"),
    "empty record": record(b"") + record(message()),
    "record over 2**14": b"\x16\3\1\x40\x01\1",
    "second record of another type": record(message()[:9]) + record(message()[9:], kind=23),
    "server hello": record(message(kind=2)),
    "length over 2**16": record(b"\1\1\0\0"),
    "length over the cap": record(b"\1\0\x40\0"),
    "empty message": record(b"\1\0\0\0"),
    "client version 2": record(message(version=b"\2\0")),
    "client version 3.5": record(message(version=b"\3\5")),
    "session id of 33": record(message(session=vector(1, b"s" * 33))),
    "no cipher": record(message(ciphers=b"\0\0")),
    "odd ciphers": record(message(ciphers=vector(2, b"\x13\x01\x13"))),
    "no compression": record(message(compression=b"\0")),
    "ciphers past the end": record(message(None, ciphers=b"\xff\xfe")),
    "bytes after the extensions": record(message(after=b"\0")),
    "half an extensions length": record(message(None, after=b"\0")),
    "extension past the end": record(message(b"\0\x15\0\x09abc")),
    "half an extension": record(message(b"\0\x15\0")),
    "extension twice": record(message(extension(21, b"") * 2)),
    "empty sni": record(message(extension(0, b""))),
    "sni without a name": record(message(extension(0, vector(2, b"")))),
    "empty name": record(message(sni(b""))),
    "two names": record(message(sni(b"a", b"b"))),
    "name with a NUL": record(message(sni(b"a\0b"))),
    "name that is not ASCII": record(message(sni(b"\xc3\xa9"))),
    "bytes after the names": record(message(extension(0, vector(2, b"\0" + vector(2, b"a")) + b"x"))),
    "alpn without a protocol": record(message(extension(16, b"\0\0"))),
    "empty protocol": record(message(alpn(b"h2", b""))),
    "bytes after the protocols": record(message(extension(16, vector(2, vector(1, b"h2")) + b"x"))),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_malformed_is_no_hello(data: bytes) -> None:
    assert read(data) is False


def test_a_name_of_another_kind_is_passed_over() -> None:
    assert read(record(message(extension(0, vector(2, b"\x05" + vector(2, b"x")))))) == ClientHello()


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_exception(data: bytes) -> None:
    read(data)


HELLO = record(message(sni(b"a.example") + alpn(b"h2")))


@given(st.lists(st.tuples(st.integers(0, len(HELLO) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_is_read_without_an_exception(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(HELLO)
    for at, value in changes:
        damaged[at] = value
    read(bytes(damaged))


def test_it_tells_its_state() -> None:
    reader = ClientHelloReader()
    reader.feed(HELLO[:20])
    assert repr(reader) == "<ClientHelloReader None, 15 bytes of message>"
