"""What a certificate says is read once; whether it is good is asked every time."""

import ssl

from OpenSSL import crypto

from linkerd_proxy.tls.context import mesh_context
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
    assert presented.cache_info().misses == 2  # the leaf and its anchor


def test_two_certificates_of_one_name_are_two(issuer):
    one, other = (
        presented(crypto.dump_certificate(crypto.FILETYPE_ASN1, crypto.X509.from_cryptography(leaf)))
        for leaf in (issuer.credentials(API).chain[0], issuer.credentials(API).chain[0])
    )
    assert one is not other
    assert one.name == other.name == API
    assert one.certificate != other.certificate
