"""Credentials from PEM text, looked at as a whole before anybody uses them."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.tls.acceptance import Unusable, accept
from linkerd_proxy.tls.identity import Credentials
from linkerd_proxy.tls.refusal import REASONS, Refused
from linkerd_proxy.tls.verify import identity_of

__all__ = ["Pem", "credentials_from_pem", "validity"]

_KEYS = (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)

Pem = tuple[str, bytes]
"""Where some PEM text is from, for messages, and the text."""


def credentials_from_pem(certificates: Pem, key: Pem, anchors: Pem, now: datetime) -> Credentials:
    """Make credentials of PEM text.

    Args:
        certificates: The leaf, then its intermediates.
        key: The leaf's private key, not encrypted.
        anchors: The trust anchors.
        now: The wall clock (UTC).

    Raises:
        InvalidConfiguration: if a part can't be read, or peers would not accept the whole. It says which part,
            and never quotes the key.
    """
    chain = _certificates(certificates)
    trusted = _certificates(anchors)
    private = _private(key)
    where = certificates[0]
    try:
        name = identity_of(chain[0])
    except Refused as refused:
        text, remedy = REASONS[refused.reason]
        detail = f" ({refused.detail})" if refused.detail else ""
        raise InvalidConfiguration(f"{where}: {text.format(peer='the')}{detail}; {remedy}") from None
    try:
        return accept(name, chain, private, trusted, now)
    except Unusable as error:
        remedy = f"have it issued anew, together with {key[0]} and by the authority of {anchors[0]}"
        raise InvalidConfiguration(f"{where}: {error}; {remedy}") from None


def validity(certificates: Pem) -> tuple[datetime, datetime]:
    """Return from when and until when (UTC) all of these certificates are valid.

    Raises:
        InvalidConfiguration: if none can be read.
    """
    found = _certificates(certificates)
    return max(one.not_valid_before_utc for one in found), min(one.not_valid_after_utc for one in found)


def _certificates(pem: Pem) -> tuple[x509.Certificate, ...]:
    where, text = pem
    try:
        return tuple(x509.load_pem_x509_certificates(text))
    except ValueError:
        raise InvalidConfiguration(f"{where}: no certificate can be read; give certificates in PEM") from None


def _private(
    pem: Pem,
) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey:
    where, text = pem
    try:
        key = load_pem_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidConfiguration(f"{where}: no key can be read; give a private key in PEM, not encrypted") from None
    if not isinstance(key, _KEYS):
        raise InvalidConfiguration(f"{where}: the key is of a kind that signs nothing; use ECDSA P-256")
    return key
