"""Credentials from PEM text, checked as a whole before anybody uses them."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.tls.identity import Credentials
from linkerd_proxy.tls.refusal import REASONS, Refused
from linkerd_proxy.tls.verify import identity_of

__all__ = ["checked", "credentials_from_pem"]

_KEYS = (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)


def credentials_from_pem(certificates: bytes, key: bytes, anchors: bytes) -> Credentials:
    """Make credentials of PEM text.

    Args:
        certificates: The leaf, then its intermediates.
        key: The leaf's private key, not encrypted.
        anchors: The trust anchors.

    Raises:
        InvalidConfiguration: if a part can't be read, or the parts don't belong together; it says which.
    """
    chain = _load(certificates, "certificate")
    trusted = _load(anchors, "trust anchor")
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidConfiguration("the private key can't be read: give an unencrypted key in PEM") from None
    if not isinstance(private, _KEYS):
        raise InvalidConfiguration("the private key is of an unusual kind: give an ECDSA P-256 key")
    try:
        name = identity_of(chain[0])
    except Refused as refused:
        why = REASONS[refused.reason]
        detail = f" ({refused.detail})" if refused.detail else ""
        raise InvalidConfiguration(f"{why[0].format(peer='the')}{detail}: {why[1]}") from None
    return checked(Credentials(name, chain, private, trusted))


def checked(credentials: Credentials) -> Credentials:
    """Return the credentials if their key and certificate belong together.

    Raises:
        InvalidConfiguration: if they don't.
    """
    mine = credentials.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    theirs = credentials.chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if mine != theirs:
        raise InvalidConfiguration("the private key is not the certificate's: give the two that were made together")
    return credentials


def _load(text: bytes, what: str) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(text))
    except ValueError:
        raise InvalidConfiguration(f"there is no readable {what} in it: give certificates in PEM") from None
