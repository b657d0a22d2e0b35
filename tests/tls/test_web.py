"""TLS of the ordinary web, over sockets, with servers and clients of the standard library."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
import trio
import trustme
from OpenSSL import SSL

from linkerd_proxy import Connect, Connection, Dial, Stack, Target, opened
from linkerd_proxy.errors import UpstreamHandshakeFailed
from linkerd_proxy.testing import serving
from linkerd_proxy.tls.originate import Originate
from linkerd_proxy.tls.terminate import Terminate
from tests.patience import PATIENCE

PAST = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture(scope="module")
def ca():
    return trustme.CA()


@pytest.fixture(scope="module")
def roots(ca, tmp_path_factory):
    path = tmp_path_factory.mktemp("roots") / "roots.pem"
    ca.cert_pem.write_to_path(str(path))
    return str(path)


def server_context(leaf, *protocols):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


@asynccontextmanager
async def https(leaf, *protocols):
    """Serve TLS by the standard library, which tells the protocol and the version; yield where."""
    context = server_context(leaf, *protocols)

    async def tell(stream):
        try:
            await stream.do_handshake()
            chosen = stream.selected_alpn_protocol()
            await stream.send_all(f"{chosen} {stream.version()}".encode())
            await stream.aclose()
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(stream)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, tell, [trio.SSLListener(listener, context)])
        yield f"127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def ask(layer, address, **target):
    """Return what the server said through the layer."""
    said = b""

    async def use(stream):
        nonlocal said
        said = b"".join([chunk async for chunk in stream])

    with trio.fail_after(PATIENCE):
        async with opened(layer | Connect(address)) as service:
            await service(Dial(Target(**target), use))
    return said.decode()


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (["good.example"], "good.example"),
        (["other.example", "good.example"], "good.example"),
        (["*.example.com"], "good.example.com"),
        (["127.0.0.1"], "127.0.0.1"),
        (["::1"], "::1"),
        (["bücher.example"], "bücher.example"),
        (["good.example"], "good.example."),
        (["fe80::1"], "fe80::1%eth0"),
    ],
)
async def test_a_server_that_holds_the_name_is_believed(ca, roots, names, host):
    async with https(ca.issue_cert(*names)) as address:
        assert await ask(Originate(host=host, roots=roots), address) == "None TLSv1.3"


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (["other.example"], "good.example"),
        (["*.example.com"], "example.com"),
        (["*.example.com"], "a.b.example.com"),
        (["good.example"], "127.0.0.1"),
        (["127.0.0.2"], "127.0.0.1"),
        (["127.0.0.1"], "localhost"),
    ],
)
async def test_a_server_that_does_not_is_refused_by_name(ca, roots, names, host):
    async with https(ca.issue_cert(*names)) as address:
        with pytest.raises(UpstreamHandshakeFailed) as caught:
            await ask(Originate(host=host, roots=roots), address)
    assert caught.value.reason == "host"
    assert f"the server's certificate is for another host: asked for {host}" in str(caught.value)
    assert "correct the host name" in str(caught.value)


ODD = [
    "a..b", ".a.example", ".", "*.example.com", "*", "a b", "a/b", "https://a.example", "a.example:443", "user@a", "x" * 64,
    ".".join(["x" * 60] * 5), "12345", "1.2.3", "0x7f.1", "256.1.1.1", "[::1]", "xn--ü", "☃" * 64, "a\0b", "a\nb", "fe80::zz", "%eth0",
    "-a.example", "\u2024", "\ud800", "a．．b", "☃.example",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["egress", "ssl", "OpenSSL"])
@pytest.mark.parametrize("host", ODD, ids=ascii)
async def test_an_odd_host_is_refused_or_not_held_but_never_breaks_anything(ca, roots, kind, host):
    """What the libraries raise for such names (ValueError, TypeError, UnicodeError) is nobody's answer."""
    layer = Originate(host=host, roots=roots) if kind == "egress" else None
    if layer is None:
        layer = Originate(context=client_contexts(ca)[kind], host=host)
    async with https(ca.issue_cert("good.example")) as address:
        try:
            said = await ask(layer, address)
        except UpstreamHandshakeFailed as error:
            said = error.reason
    assert said in {"bad_host", "host"} or (kind, said) == ("OpenSSL", "None TLSv1.3")  # whose context checks no name


@pytest.mark.parametrize("host", [odd for odd in ODD if odd != "0x7f.1"], ids=ascii)
async def test_a_host_that_no_certificate_can_name_is_refused_before_anything_is_dialled(roots, host):
    dialled = []

    class Nowhere(Stack[Dial]):
        @asynccontextmanager
        async def open(self):
            async def service(dial):
                dialled.append(dial)

            yield service

    async with opened(Originate(host="", roots=roots) | Nowhere()) as service:
        with pytest.raises(UpstreamHandshakeFailed, match="no certificate can be for the host") as caught:
            await service(Dial(Target(server_name=host), trio.sleep))
    assert (dialled, caught.value.reason) == ([], "bad_host")


async def test_a_common_name_is_no_name(ca, roots):
    async with https(ca.issue_cert("other.example", common_name="good.example")) as address:
        with pytest.raises(UpstreamHandshakeFailed) as caught:
            await ask(Originate(host="good.example", roots=roots), address)
    assert caught.value.reason == "host"


async def test_certificates_that_are_not_good_are_told_apart(ca, roots):
    expired = ca.issue_cert("good.example", not_before=PAST - timedelta(days=9), not_after=PAST)
    early = ca.issue_cert("good.example", not_before=datetime.now(UTC) + timedelta(days=1))
    stranger = trustme.CA().issue_cert("good.example")
    for leaf, reason, words in (
        (expired, "expired", "the server's certificate has expired"),
        (early, "not_yet_valid", "the server's certificate is not valid yet"),
        (stranger, "unknown_ca", "an authority that is not trusted here"),
    ):
        async with https(leaf) as address:
            with pytest.raises(UpstreamHandshakeFailed) as caught:
                await ask(Originate(host="good.example", roots=roots), address)
            assert caught.value.reason == reason
            assert words in str(caught.value)


async def test_a_certificate_signed_by_itself_is_refused(roots, self_signed):
    async with https(self_signed) as address:
        with pytest.raises(UpstreamHandshakeFailed, match="signed by itself and not trusted here") as caught:
            await ask(Originate(host="good.example", roots=roots), address)
    assert caught.value.reason == "self_signed"


@pytest.fixture
def self_signed():
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "good.example")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, PAST, PAST + timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("good.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return trustme.LeafCert(pem, made.public_bytes(Encoding.PEM), [])


@pytest.mark.parametrize(
    ("protocol", "alpn", "served", "chosen"),
    [
        ("http/2", None, ("h2", "http/1.1"), "h2"),
        ("http/1", None, ("h2", "http/1.1"), "http/1.1"),
        (None, ("h2", "http/1.1"), ("http/1.1",), "http/1.1"),
        (None, ("h2", "http/1.1"), ("h2", "http/1.1"), "h2"),
        (None, None, ("h2",), "None"),
    ],
)
async def test_the_protocol_is_agreed_on(ca, roots, protocol, alpn, served, chosen):
    layer = Originate(host="good.example", roots=roots, alpn=alpn)
    async with https(ca.issue_cert("good.example"), *served) as address:
        assert await ask(layer, address, protocol=protocol) == f"{chosen} TLSv1.3"


async def test_a_host_that_is_left_to_the_target_is_its_server_name_or_its_address(ca, roots):
    layer = Originate(host="", roots=roots)
    async with https(ca.issue_cert("good.example")) as address:
        assert await ask(layer, address, server_name="good.example") == "None TLSv1.3"
        with pytest.raises(UpstreamHandshakeFailed, match=r"for another host: asked for bad\.example"):
            await ask(layer, address, server_name="bad.example")
        with pytest.raises(UpstreamHandshakeFailed, match="nothing says which host to expect"):
            await ask(layer, address)


async def test_a_server_that_speaks_plaintext_is_told_so(roots):
    async def plain(stream):
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, plain, [listener])
        with pytest.raises(UpstreamHandshakeFailed, match="does not speak TLS"):
            await ask(Originate(host="good.example", roots=roots), f"127.0.0.1:{listener.socket.getsockname()[1]}")
        nursery.cancel_scope.cancel()


# --- contexts of one's own, both ways ------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class End(Stack[Connection]):
    serve: Callable[[Connection], Awaitable[None]]

    @asynccontextmanager
    async def open(self):
        yield self.serve


def client_contexts(ca):
    standard = ssl.create_default_context()
    ca.configure_trust(standard)
    other = SSL.Context(SSL.TLS_METHOD)
    ca.configure_trust(other)
    other.set_verify(SSL.VERIFY_PEER)
    return {"ssl": standard, "OpenSSL": other}


def server_contexts(leaf):
    other = SSL.Context(SSL.TLS_METHOD)
    leaf.configure_cert(other)
    return {"ssl": server_context(leaf), "OpenSSL": other}


@pytest.mark.parametrize("client", ["ssl", "OpenSSL"])
@pytest.mark.parametrize("server", ["ssl", "OpenSSL"])
async def test_contexts_of_ones_own_meet_over_sockets(ca, client, server):
    seen = []

    async def tell(connection):
        seen.append(connection.tls)
        await connection.stream.send_all(b"x" * 300_000)

    terminate = Terminate(context=server_contexts(ca.issue_cert("good.example"))[server])
    async with serving(terminate | End(tell)) as address:
        originate = Originate(context=client_contexts(ca)[client], host="good.example")
        assert await ask(originate, str(address)) == "x" * 300_000
    assert [tls.peer_identity for tls in seen] == [None]


@pytest.mark.parametrize("client", ["ssl", "OpenSSL"])
async def test_a_context_of_ones_own_says_itself_what_is_trusted(ca, client):
    async with https(trustme.CA().issue_cert("good.example")) as address:
        with pytest.raises(UpstreamHandshakeFailed) as caught:
            await ask(Originate(context=client_contexts(ca)[client], host="good.example"), address)
    assert caught.value.reason in {"unknown_ca", "protocol"}


@pytest.mark.parametrize("server", ["ssl", "OpenSSL"])
async def test_a_client_of_the_standard_library_is_served(ca, server):
    async def echo(connection):
        while data := await connection.stream.receive_some():
            await connection.stream.send_all(data)

    terminate = Terminate(context=server_contexts(ca.issue_cert("good.example"))[server])
    async with serving(terminate | End(echo)) as address:
        stream = await trio.open_tcp_stream(address.host, address.port)
        async with trio.SSLStream(stream, client_contexts(ca)["ssl"], server_hostname="good.example") as inside:
            await inside.send_all(b"hello")
            assert await inside.receive_some() == b"hello"
