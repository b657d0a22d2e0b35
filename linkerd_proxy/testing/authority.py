"""A certificate authority for tests: trustme's, and identities as SPIFFE names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trustme

__all__ = ["Authority", "Svid"]


@dataclass(frozen=True, slots=True)
class Svid:
    """A workload's X.509 certificate and key, PEM (spiffe/spiffe, standards/X509-SVID.md)."""

    identity: str
    certificate: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"<Svid {self.identity}>"  # never the key


class Authority:
    """Issues certificates that only this test trusts.

    ``ca`` is the trustme authority itself, for DNS names and addresses (``ca.issue_cert("a.example")``) and for
    ``configure_trust``; :meth:`issue_svid` does what trustme can't.
    """

    def __init__(self) -> None:
        import trustme  # the extra "test"

        self.ca: trustme.CA = trustme.CA()

    @property
    def roots(self) -> bytes:
        """The trust anchor, PEM."""
        return self.ca.cert_pem.bytes()

    def issue_svid(self, identity: str, *, lifetime: float = 86400.0) -> Svid:
        """Issue a certificate whose one name is a SPIFFE ID.

        Args:
            identity: For example ``spiffe://example.org/ns/default/sa/web``.
            lifetime: Seconds for which it is valid, from a minute ago; one that is negative has expired.

        Raises:
            ValueError: if it is no SPIFFE ID.
        """
        import datetime

        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID

        if not identity.startswith("spiffe://") or identity == "spiffe://":
            raise ValueError(f"{identity!r} is no SPIFFE ID: write spiffe://trust-domain/path")
        authority = x509.load_pem_x509_certificate(self.roots)
        signer = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), password=None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        issued = datetime.datetime.now(datetime.UTC)
        start = issued - datetime.timedelta(seconds=60 + max(0.0, -lifetime) * 2)
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(issued + datetime.timedelta(seconds=lifetime))
            # RFC 5280 section 4.2.1.6: with an empty subject the alternative name is critical.
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .sign(signer, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        return Svid(
            identity,
            certificate.public_bytes(pem),
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        )

    def __repr__(self) -> str:
        return "<Authority of a test>"
