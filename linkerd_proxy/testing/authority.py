"""A certificate authority for tests: trustme's, and identities as SPIFFE names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from linkerd_proxy.tls.authority import utc_now
from linkerd_proxy.tls.identity import Credentials
from linkerd_proxy.tls.leaf import SKEW, signed_leaf
from linkerd_proxy.tls.store import key_pem, to_pem

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

    def issue(self, identity: str, *, lifetime: float = 86400.0) -> Credentials:
        """Issue what a proxy proves itself with: ``Given(authority.issue("web.mesh.local"))`` is an identity.

        Args:
            identity: DNS-like, or a SPIFFE ID. Of any trust domain: what a test needs may be wrong on purpose.
            lifetime: Seconds for which it is valid, from a minute ago; one that is negative has expired.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        root = x509.load_pem_x509_certificate(self.roots)
        signer = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), password=None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = signed_leaf(
            identity,
            key.public_key(),
            issuer=root,
            signer=signer,
            issued=utc_now(),
            lifetime=lifetime,
            skew=SKEW + max(0.0, -lifetime) * 2,
        )
        return Credentials(identity, (leaf,), key, (root,))

    def issue_svid(self, identity: str, *, lifetime: float = 86400.0) -> Svid:
        """Issue a certificate whose one name is a SPIFFE ID, as PEM.

        Args:
            identity: For example ``spiffe://example.org/ns/default/sa/web``.
            lifetime: Seconds for which it is valid, from a minute ago; one that is negative has expired.

        Raises:
            ValueError: if it is no SPIFFE ID.
        """
        if not identity.startswith("spiffe://") or identity == "spiffe://":
            raise ValueError(f"{identity!r} is no SPIFFE ID: write spiffe://trust-domain/path")
        made = self.issue(identity, lifetime=lifetime)
        return Svid(identity, to_pem(made.chain), key_pem(made.key))

    def __repr__(self) -> str:
        return "<Authority of a test>"
