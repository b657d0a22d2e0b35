"""What an authority sent is looked at as a peer would, before anybody sees it: a bad certificate helps nobody."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from linkerd_proxy.tls.identity import Credentials

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

__all__ = ["Unusable", "accept", "load_der", "load_key", "split_der"]

_MOST = 100  # certificates; own figure: a chain has three, a bundle while roots follow each other a few


class Unusable(Exception):
    """Credentials are not published; the message says what is wrong with them."""


def accept(
    name: str,
    chain: Sequence[x509.Certificate],
    key: CertificateIssuerPrivateKeyTypes,
    anchors: Sequence[x509.Certificate],
    now: datetime,
) -> Credentials:
    """Return credentials that peers will accept.

    Args:
        name: The one name that the leaf must have.
        chain: The leaf, then its intermediates.
        key: The key that the leaf must be for.
        anchors: Whom peers trust.
        now: The wall clock (UTC).

    Raises:
        Unusable: if the leaf is another's, for another key, not valid now, or does not chain up to an anchor.
    """
    if not chain or not anchors:
        raise Unusable("there is no certificate" if anchors else "there is no trust anchor")
    leaf = chain[0]
    found = _name_in(leaf)
    if found != name:
        raise Unusable(f"the certificate is {found}'s, not {name}'s")
    if leaf.public_key() != key.public_key():
        raise Unusable("the certificate is for another key")
    for certificate in chain:
        if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
            raise Unusable(
                f"a certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} to "
                f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}, and it is {now:%Y-%m-%dT%H:%M:%SZ}"
            )
    _check_chain(chain, anchors, now)
    return Credentials(name, tuple(chain), key, tuple(anchors))


def _check_chain(chain: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate], now: datetime) -> None:
    """Let OpenSSL build the chain, by the same rules as in handshakes."""
    from OpenSSL import SSL, crypto

    store = crypto.X509Store()
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # an anchor is an anchor, signed by itself or not
    store.set_time(now)
    for anchor in anchors:
        store.add_cert(crypto.X509.from_cryptography(anchor))
    leaf, *between = [crypto.X509.from_cryptography(one) for one in chain]
    try:
        crypto.X509StoreContext(store, leaf, between).verify_certificate()
    except crypto.X509StoreContextError as error:
        # A wrong signature stays in OpenSSL's queue, where the next failure of any connection would find it.
        library = getattr(SSL, "_lib", None)
        if library is not None:
            library.ERR_clear_error()
        raise Unusable(f"the certificate does not chain up to a trust anchor: {error}") from None


def _name_in(leaf: x509.Certificate) -> str:
    from linkerd_proxy.tls.refusal import REASONS, Refused
    from linkerd_proxy.tls.verify import identity_of

    try:
        return identity_of(leaf)
    except Refused as refused:
        detail = f": {refused.detail}" if refused.detail else ""
        raise Unusable(f"{REASONS[refused.reason][0].format(peer='the')}{detail}") from None


# --- DER ---------------------------------------------------------------------------------------


def load_der(certificates: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    """Read certificates. Raises :exc:`Unusable` if one is malformed, or there are too many."""
    from cryptography import x509

    if len(certificates) > _MOST:
        raise Unusable(f"there are {len(certificates)} certificates, more than {_MOST}")
    try:
        return tuple(x509.load_der_x509_certificate(one) for one in certificates)
    except ValueError as error:
        raise Unusable(f"a certificate can't be read: {error}") from None


def load_key(key: bytes) -> CertificateIssuerPrivateKeyTypes:
    """Read a private key, PKCS #8 in DER. Raises :exc:`Unusable`, which tells nothing of its content."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    kinds = (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)
    try:
        loaded = load_der_private_key(key, password=None)
    except Exception:  # ValueError, TypeError, UnsupportedAlgorithm; their texts may quote the key
        raise Unusable("the private key can't be read: it must be PKCS #8 in DER without a password") from None
    if not isinstance(loaded, kinds):
        raise Unusable("the private key is of a kind that signs nothing: use ECDSA P-256")
    return loaded


def split_der(data: bytes) -> list[bytes]:
    """Return the certificates that stand one after the other. Raises :exc:`Unusable` if the last one is cut off.

    Each begins with its tag and its length (X.690 section 8.1).
    """
    found: list[bytes] = []
    at = 0
    while at < len(data):
        size = _size_at(data, at)
        if at + size > len(data):
            raise Unusable("a sequence of certificates is cut off")
        found.append(data[at : at + size])
        at += size
    return found


def _size_at(data: bytes, at: int) -> int:
    if data[at] != 0x30 or at + 2 > len(data):
        raise Unusable("a sequence of certificates is no DER")
    length = data[at + 1]
    if length < 0x80:
        return 2 + length
    count = length & 0x7F
    if not 1 <= count <= 4:
        raise Unusable("a sequence of certificates is no DER")
    return 2 + count + int.from_bytes(data[at + 2 : at + 2 + count], "big")
