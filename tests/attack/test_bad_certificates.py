"""Certificates that must not be believed, from clients and from servers: none is, each is counted and logged."""

from __future__ import annotations

import logging
import re
import ssl
from contextlib import suppress
from ipaddress import ip_address

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from OpenSSL import SSL, crypto

from linkerd_proxy import Dial, Target
from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.contain import contained
from linkerd_proxy.errors import IdentityMismatch, ProxyError, UpstreamHandshakeFailed
from linkerd_proxy.testing import memory_connection
from linkerd_proxy.tls.context import mesh_context
from linkerd_proxy.tls.handshake import shake
from linkerd_proxy.tls.identity import Given
from linkerd_proxy.tls.openssl import OpenSSLEngine
from linkerd_proxy.tls.originate import Originate
from linkerd_proxy.tls.refusal import REASONS, Refused
from linkerd_proxy.tls.terminate import Terminate
from tests.patience import PATIENCE
from tests.tls.conftest import API, DAY, NOW, WEB, failures, issuer_pem, make_issuer

SPIFFE = "spiffe://mesh.example/ns/default/sa/web"
CLIENT_ONLY = (ExtendedKeyUsageOID.CLIENT_AUTH,)
SERVER_ONLY = (ExtendedKeyUsageOID.SERVER_AUTH,)


def uri(text):
    return x509.UniformResourceIdentifier(text)


def chained(issuer, **changes):
    """Issue a leaf under an intermediate that is unusual."""
    return make_issuer("intermediate", parent=issuer, **changes).issue(WEB)


def below(issuer, leaf_changes=None, **changes):
    under = make_issuer("intermediate", parent=issuer, **changes)
    leaf = under.issue(WEB, **(leaf_changes or {}))
    leaf.above = (under.certificate,)
    return leaf


def constrained(issuer, *trees, excluded=False):
    names = [x509.DNSName(tree) for tree in trees]
    extension = x509.NameConstraints(None if excluded else names, names if excluded else None)
    return below(issuer, extensions=[(extension, True)])


def signed_by_itself():
    key = ec.generate_private_key(ec.SECP256R1())
    return make_issuer("nobody").issue(WEB, key=key, signer=key, issuer=x509.Name([]))


def deep(issuer):
    first = make_issuer("first", parent=issuer, path_length=0)
    second = make_issuer("second", parent=first)
    leaf = second.issue(WEB)
    leaf.above = (second.certificate, first.certificate)
    return leaf


def leaf_as_issuer(issuer):
    middle = issuer.issue(API, cn="middle")
    return below_leaf(middle)


def below_leaf(middle):
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = make_issuer("nobody").issue(WEB, key=key, signer=middle.key, issuer=middle.certificate.subject)
    leaf.above = (middle.certificate,)
    return leaf


UNKNOWN = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")

CASES = {
    "expired": (lambda i: i.issue(WEB, valid=(NOW - 2 * DAY, NOW - DAY)), "expired"),
    "expired a second ago": (lambda i: i.issue(WEB, valid=(NOW - DAY, NOW - DAY / 86400)), "expired"),
    "not yet valid": (lambda i: i.issue(WEB, valid=(NOW + DAY, NOW + 2 * DAY)), "not_yet_valid"),
    "of another authority": (lambda i: make_issuer("stranger").issue(WEB), "unknown_ca"),
    "of another authority of the same name": (lambda i: make_issuer("test root").issue(WEB), "unknown_ca"),
    "of another authority that pretends to be this one": (
        lambda i: i.issue(WEB, signer=make_issuer().key, authority_key=i.key),
        "bad_signature",
    ),
    "signed by itself": (lambda i: signed_by_itself(), "self_signed|unknown_ca"),
    "without its intermediate": (lambda i: chained(i), "unknown_ca"),
    "under an expired intermediate": (lambda i: below(i, valid=(NOW - 9 * DAY, NOW - DAY)), "expired"),
    "under an intermediate of the future": (lambda i: below(i, valid=(NOW + DAY, NOW + 2 * DAY)), "not_yet_valid"),
    "under one that is no authority": (lambda i: below(i, ca=False), "invalid_ca"),
    "signed by a leaf": (leaf_as_issuer, "invalid_ca|unknown_ca"),
    "under too long a path": (deep, "constraints"),
    "outside of what its issuer may issue": (lambda i: constrained(i, "other.example"), "constraints"),
    "within what its issuer may not issue": (lambda i: constrained(i, "mesh.example", excluded=True), "constraints"),
    "two DNS names": (lambda i: i.issue(WEB, API), "many_names"),
    "the same name twice": (lambda i: i.issue(WEB, WEB), "many_names"),
    "a DNS name and a SPIFFE ID": (lambda i: i.issue(WEB, uri(SPIFFE)), "many_names"),
    "two SPIFFE IDs": (lambda i: i.issue(uri(SPIFFE), uri(SPIFFE + "2")), "many_names"),
    "no name": (lambda i: i.issue(cn="nobody"), "no_name"),
    "a common name only": (lambda i: i.issue(cn=WEB), "no_name"),
    "an address only": (lambda i: i.issue(x509.IPAddress(ip_address("10.0.0.1")), cn=WEB), "no_name"),
    "an e-mail address only": (lambda i: i.issue(x509.RFC822Name("web@mesh.example")), "no_name"),
    "an address written as a name": (lambda i: i.issue("10.0.0.1"), "bad_name"),
    "a wildcard": (lambda i: i.issue("*.mesh.example"), "wildcard"),
    "a wildcard within": (lambda i: i.issue("w*b.mesh.example"), "wildcard"),
    "a trailing dot": (lambda i: i.issue(WEB + "."), "bad_name"),
    "a leading dot": (lambda i: i.issue("." + WEB), "bad_name"),
    "upper case": (lambda i: i.issue("Web.mesh.example"), "bad_name"),
    "a NUL": (lambda i: i.issue(WEB + "\0.evil.example"), "bad_name|malformed|no_name"),
    "a space": (lambda i: i.issue("web mesh.example"), "bad_name"),
    "a label of 64": (lambda i: i.issue("x" * 64 + ".example"), "bad_name"),
    "254 characters": (lambda i: i.issue(".".join(["x" * 49] * 6)), "bad_name"),
    "spiffe with a query": (lambda i: i.issue(uri(SPIFFE + "?a=b")), "bad_name"),
    "spiffe with a fragment": (lambda i: i.issue(uri(SPIFFE + "#a")), "bad_name"),
    "spiffe with a port": (lambda i: i.issue(uri("spiffe://mesh.example:80/web")), "bad_name"),
    "spiffe with a user": (lambda i: i.issue(uri("spiffe://me@mesh.example/web")), "bad_name"),
    "spiffe without a path": (lambda i: i.issue(uri("spiffe://mesh.example")), "bad_name"),
    "spiffe with an empty path": (lambda i: i.issue(uri("spiffe://mesh.example/")), "bad_name"),
    "spiffe with an empty segment": (lambda i: i.issue(uri("spiffe://mesh.example/a//b")), "bad_name"),
    "spiffe that goes up": (lambda i: i.issue(uri("spiffe://mesh.example/a/../b")), "bad_name"),
    "spiffe with escapes": (lambda i: i.issue(uri("spiffe://mesh.example/%77eb")), "bad_name"),
    "spiffe in upper case": (lambda i: i.issue(uri("SPIFFE://mesh.example/web")), "bad_name"),
    "spiffe with a domain in upper case": (lambda i: i.issue(uri("spiffe://Mesh.example/web")), "bad_name"),
    "spiffe without a domain": (lambda i: i.issue(uri("spiffe:///web")), "bad_name"),
    "spiffe of 2049 characters": (lambda i: i.issue(uri("spiffe://mesh.example/" + "x" * 2027)), "bad_name"),
    "another URI": (lambda i: i.issue(uri("https://mesh.example/web")), "bad_name"),
    "an authority's own": (lambda i: i.issue(WEB, ca=True, usage=("digital_signature", "key_cert_sign")), "ca_as_leaf"),
    "a key that may sign certificates": (
        lambda i: i.issue(WEB, usage=("digital_signature", "key_cert_sign")),
        "key_usage|purpose|invalid_ca",
    ),
    "a key that may not sign": (lambda i: i.issue(WEB, usage=("key_encipherment",)), "key_usage|purpose|invalid"),
    "spiffe without a key usage": (lambda i: i.issue(uri(SPIFFE), usage=None), "key_usage"),
    "an unknown critical extension": (lambda i: i.issue(WEB, extensions=[(UNKNOWN, True)]), "malformed"),
    "a key of 1024 bits": (
        lambda i: i.issue(WEB, key=rsa.generate_private_key(65537, 1024), usage=("digital_signature",)),
        "weak",
    ),
    "of another identity": (lambda i: i.issue("other.mesh.example"), "identity"),
    "of another SPIFFE ID": (lambda i: i.issue(uri(SPIFFE + "2")), "identity"),
    "of a name that only begins so": (lambda i: i.issue(WEB + ".evil.example"), "identity"),
    "for clients only": (lambda i: i.issue(WEB, purposes=CLIENT_ONLY), "purpose"),
    "for servers only": (lambda i: i.issue(WEB, purposes=SERVER_ONLY), "purpose"),
}
AS_SERVER = [name for name in CASES if name != "for servers only"]
AS_CLIENT = [name for name in CASES if CASES[name][1] != "identity" and name != "for clients only"]


def lax(credentials, side):
    """Return the context of a peer that proves whatever it likes."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.use_certificate(credentials.certificate)
    for certificate in credentials.above:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(credentials.key)
    return OpenSSLEngine(context, server=side == "server", server_name=None if side == "server" else WEB)


async def never(_work):
    raise AssertionError("a bad certificate was accepted")


async def attempt_at_server(identity, engine, caplog, *, send=b"let me in", **options):
    """Let a client at Terminate, and return what it read and the lines of the log."""
    ours, connection = memory_connection()
    answers = []

    async def client():
        try:
            stream = await shake(ours, engine)
            await stream.send_all(send)
            answers.append(await stream.receive_some())
        except (Refused, trio.BrokenResourceError) as error:
            answers.append(error)
        await trio.aclose_forcefully(ours)

    caplog.set_level(logging.WARNING, logger="linkerd_proxy")
    with trio.fail_after(PATIENCE):
        layer = Terminate(identity, server_names=("*",), **options)
        async with layer.open(never) as serve, trio.open_nursery() as nursery:
            nursery.start_soon(client)
            await contained(serve, connection)
    (answer,) = answers
    return answer, [line for line in caplog.messages if line.startswith("DTF ")]


async def attempt_at_client(identity, engine, expected=WEB):
    """Let Originate at a server, and return the error."""
    ours, theirs = trio.testing.memory_stream_pair()

    async def connect(dial):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server)
            try:
                await dial.use(ours)
            finally:
                await trio.aclose_forcefully(ours)

    async def server():
        try:
            await shake(theirs, engine)
            assert not await theirs.receive_some(), "the client went on"
        except (Refused, trio.BrokenResourceError):
            await theirs.aclose()

    try:
        with trio.fail_after(PATIENCE):
            async with Originate(identity).open(connect) as serve:
                await serve(Dial(Target(identity=expected), never))
    except (ProxyError, ExceptionGroup) as error:
        return unwrapped(error)
    raise AssertionError("it was accepted")


def check_failures(side, reasons):
    (found,) = failures(side).items()
    assert found[1] == 1
    assert found[0] in reasons.split("|")
    assert found[0] in REASONS
    return found[0]


@pytest.mark.parametrize("case", AS_CLIENT)
async def test_a_client_with_a_bad_certificate_gets_nothing(issuer, caplog, case):
    make, reasons = CASES[case]
    answer, lines = await attempt_at_server(Given(issuer.credentials(API)), lax(make(issuer), "client"), caplog)
    assert isinstance(answer, trio.BrokenResourceError)
    assert "alert" in str(answer)
    reason = check_failures("server", reasons)
    (line,) = lines
    text, remedy = REASONS[reason]
    assert line.startswith("DTF Terminate: " + text.format(peer="the client's"))
    assert remedy in line


@pytest.mark.parametrize("case", AS_SERVER)
async def test_a_server_with_a_bad_certificate_gets_nothing(issuer, case):
    make, reasons = CASES[case]
    expected = SPIFFE if "spiffe" in case.lower() else WEB
    error = await attempt_at_client(Given(issuer.credentials(API)), lax(make(issuer), "server"), expected)
    assert isinstance(error, UpstreamHandshakeFailed)
    assert isinstance(error, IdentityMismatch) == (reasons == "identity")
    assert check_failures("client", reasons) == error.reason
    assert str(error).startswith("Originate: the server's")
    assert len(str(error)) < 1000
    assert "\n" not in str(error)


UNREADABLE = {
    "a version that there is not": lambda der: der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05", 1),
    "a thirteenth month": lambda der: re.sub(rb"(?s)(\x17\x0d..)..", rb"\g<1>13", der, count=1),
}
"""Certificates that OpenSSL reads and cryptography does not."""


def unreadable(issuer, side, case):
    leaf = issuer.issue(WEB)
    der = UNREADABLE[case](leaf.certificate.public_bytes(Encoding.DER))
    assert der != leaf.certificate.public_bytes(Encoding.DER)
    source = SSL._ffi.from_buffer(der)
    bio = SSL._ffi.gc(SSL._lib.BIO_new_mem_buf(source, len(der)), SSL._lib.BIO_free)
    engine = lax(leaf, side)
    certificate = SSL._ffi.gc(SSL._lib.d2i_X509_bio(bio, SSL._ffi.NULL), SSL._lib.X509_free)
    assert SSL._lib.SSL_use_certificate(engine._ssl, certificate) == 1
    key = crypto.PKey.from_cryptography_key(leaf.key)
    assert SSL._lib.SSL_use_PrivateKey(engine._ssl, key._pkey) == 1
    return engine


@pytest.mark.parametrize("case", UNREADABLE)
async def test_a_client_with_a_certificate_that_one_library_reads_and_another_does_not_gets_nothing(
    issuer, caplog, case
):
    answer, lines = await attempt_at_server(Given(issuer.credentials(API)), unreadable(issuer, "client", case), caplog)
    assert "alert" in str(answer)
    assert check_failures("server", "malformed")
    assert len(lines) == 1


@pytest.mark.parametrize("case", UNREADABLE)
async def test_a_server_with_a_certificate_that_one_library_reads_and_another_does_not_gets_nothing(issuer, case):
    error = await attempt_at_client(Given(issuer.credentials(API)), unreadable(issuer, "server", case))
    assert isinstance(error, UpstreamHandshakeFailed)
    assert check_failures("client", "malformed") == error.reason


async def test_a_client_without_a_certificate_is_refused_where_one_is_required(issuer, caplog):
    engine = OpenSSLEngine(SSL.Context(SSL.TLS_METHOD), server=False, server_name=WEB)
    answer, lines = await attempt_at_server(Given(issuer.credentials(WEB)), engine, caplog, require_identity=True)
    assert "certificate required" in str(answer)
    assert check_failures("server", "no_certificate")
    assert len(lines) == 1


@pytest.mark.parametrize("newest", [SSL.TLS1_2_VERSION, SSL.TLS1_1_VERSION])
async def test_older_versions_of_tls_are_refused(issuer, caplog, newest):
    good = issuer.issue(WEB)
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.set_max_proto_version(newest)
    context.use_certificate(good.certificate)
    context.use_privatekey(good.key)
    client = OpenSSLEngine(context, server=False, server_name=WEB)
    answer, lines = await attempt_at_server(Given(issuer.credentials(WEB)), client, caplog)
    assert isinstance(answer, Refused)
    assert len(lines) == 1
    check_failures("server", "version|protocol")


async def test_a_server_that_speaks_tls_1_2_is_refused(issuer):
    good = issuer.issue(WEB)
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.use_certificate(good.certificate)
    context.use_privatekey(good.key)
    error = await attempt_at_client(Given(issuer.credentials(API)), OpenSSLEngine(context, server=True))
    assert error.reason in {"version", "alert"}


async def test_a_ticket_proves_nothing(issuer, tmp_path):
    """A client that kept its session is asked for its certificate again."""
    (tmp_path / "ca.pem").write_bytes(issuer_pem(issuer))
    chain, key = issuer.issue(API).pem
    (tmp_path / "api.pem").write_bytes(chain + key)
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    client.load_cert_chain(tmp_path / "api.pem")
    server = mesh_context(issuer.credentials(WEB), "server")
    first = in_memory(client, server)
    assert not first.session_reused
    second = in_memory(client, server, session=first.session)
    assert not second.session_reused


def in_memory(client, server, session=None):
    """Shake hands with a standard library's client, read what the server sent after it, and return the client."""
    from linkerd_proxy.tls.verify import Verification

    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    mine = client.wrap_bio(into, out, server_hostname=WEB, session=session)
    verification = Verification()
    engine = OpenSSLEngine(server, server=True, verification=verification)
    done = False
    for _ in range(6):
        with suppress(ssl.SSLWantReadError):
            mine.do_handshake()
        if sent := out.read():
            engine.feed(sent)
        done = done or engine.handshake()
        into.write(engine.take())
    into.write(engine.encrypt(b"x"))
    assert mine.read(10) == b"x"
    assert verification.name == API
    return mine
