"""How a workload's certificate looks: one place that signs them, for the authority and for tests."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

from linkerd_proxy.names import is_spiffe

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

__all__ = ["SKEW", "general_name", "key_usage", "signed_leaf"]

SKEW = 60.0
"""Seconds by which the clocks of a mesh may differ: a certificate is valid that much before it is issued."""


def general_name(name: str) -> x509.GeneralName:
    """Return a name as it stands in a certificate."""
    from cryptography import x509

    return x509.UniformResourceIdentifier(name) if is_spiffe(name) else x509.DNSName(name)


def key_usage(*, signs_certificates: bool = False) -> x509.KeyUsage:
    """Return what a key may be used for: an authority's for certificates, a workload's for handshakes."""
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def signed_leaf(
    name: str,
    public_key: PublicKey,
    *,
    issuer: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    issued: datetime,
    lifetime: float,
    skew: float = SKEW,
) -> x509.Certificate:
    """Return a workload's certificate: one name, no subject, for both sides of a handshake, and for nothing else.

    Args:
        name: The identity, DNS-like or ``spiffe://``, that was checked.
        public_key: The workload's.
        issuer: The certificate that the chain goes on with.
        signer: The issuer's key.
        issued: When (UTC).
        lifetime: Seconds from then on; never longer than the issuer's own certificate is valid.
        skew: Seconds before ``issued`` from which on it is valid.

    Source: spiffe/spiffe, standards/X509-SVID.md sections 3 to 5; RFC 5280 section 4.2.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID

    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    start = issued - timedelta(seconds=skew)
    end = min(issued + timedelta(seconds=lifetime), issuer.not_valid_after_utc)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        # RFC 5280 section 4.2.1.6: with an empty subject the alternative name is critical.
        .add_extension(x509.SubjectAlternativeName([general_name(name)]), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(_authority_key(issuer), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Name the issuer's key as its own certificate does, so that verifiers find it among several."""
    from cryptography import x509

    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        key = issuer.public_key()
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)  # type: ignore[arg-type]  # it signs, so it is
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)
