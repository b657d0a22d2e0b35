"""What a certificate says is read once; whether it is good is asked every time."""

import ssl

import pytest
from OpenSSL import crypto

from linkerd_proxy.tls.context import mesh_context
from linkerd_proxy.tls.openssl import OpenSSLEngine
from linkerd_proxy.tls.verify import presented
from tests.attack.test_bad_certificates import in_memory
from tests.tls.conftest import API, WEB, issuer_pem


def client_of(issuer, directory, name):
    (directory / "ca.pem").write_bytes(issuer_pem(issuer))
    chain, key = issuer.issue(name).pem
    (directory / "own.pem").write_bytes(chain + key)
    context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    context.load_cert_chain(directory / "own.pem")
    return context


def test_a_certificate_that_comes_again_is_not_read_again(issuer, tmp_path):
    client = client_of(issuer, tmp_path, API)
    server = mesh_context(issuer.credentials(WEB), "server")
    presented.cache_clear()
    for _ in range(5):
        in_memory(client, server)  # which compares the name
    assert presented.cache_info().misses == 1  # the leaf: its anchor matters only among several trust domains


def test_two_certificates_of_one_name_are_two(issuer):
    one, other = (
        presented(crypto.dump_certificate(crypto.FILETYPE_ASN1, crypto.X509.from_cryptography(leaf)))
        for leaf in (issuer.credentials(API).chain[0], issuer.credentials(API).chain[0])
    )
    assert one is not other
    assert one.name == other.name == API
    assert one.certificate != other.certificate


def test_a_server_takes_the_cheapest_suite_that_both_have(issuer, tmp_path):
    client = client_of(issuer, tmp_path, API)
    assert client.get_ciphers()[0]["name"] == "TLS_AES_256_GCM_SHA384"  # what this client would rather have
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = client.wrap_bio(incoming, outgoing, server_hostname=WEB)
    server = OpenSSLEngine(mesh_context(issuer.credentials(WEB), "server"), server=True)
    with pytest.raises(ssl.SSLWantReadError):
        peer.do_handshake()
    server.feed(outgoing.read())
    assert not server.handshake()
    incoming.write(server.take())
    peer.do_handshake()
    assert peer.cipher()[0] == "TLS_AES_128_GCM_SHA256"
