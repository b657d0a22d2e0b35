"""What is looked at before it is published leaves no trace that a connection could stumble over."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from linkerd_proxy.tls.acceptance import Unusable, accept
from tests.tls.conftest import NOW, WEB


def test_a_wrong_signature_leaves_nothing_in_the_queue_of_errors_that_connections_read(issuer):
    good = issuer.credentials(WEB)
    der = bytearray(good.chain[0].public_bytes(Encoding.DER))
    der[-3] ^= 0xFF
    SSL._lib.ERR_clear_error()
    with pytest.raises(Unusable, match="signature"):
        accept(WEB, [x509.load_der_x509_certificate(bytes(der))], good.key, good.anchors, NOW)
    assert SSL._lib.ERR_peek_error() == 0
