"""Our own certificate authority: it signs for the workloads of one trust domain, and for nobody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

from linkerd_proxy.errors import InvalidConfiguration, NoCredentials
from linkerd_proxy.tls.identity import Credentials
from linkerd_proxy.tls.leaf import SKEW, key_usage, signed_leaf
from linkerd_proxy.tls.trust_domain import check_name, check_trust_domain

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    from linkerd_proxy.tls.leaf import PublicKey

__all__ = ["ISSUER_LIFETIME", "LEAF_LIFETIME", "ROOT_LIFETIME", "Authority", "Chain", "fingerprint", "utc_now"]

Chain: TypeAlias = "tuple[x509.Certificate, ...]"
"""A certificate, then those of its issuers."""

ROOT_LIFETIME = 10 * 365 * 86400.0
"""Seconds: ten years. Everybody's trust anchor is changed by hand, on every host."""
ISSUER_LIFETIME = 365 * 86400.0
"""Seconds: a year, for an authority below another one. (Linkerd's own issuer)"""
LEAF_LIFETIME = 86400.0
"""Seconds: a day, so that a stolen key is worth little soon. (Linkerd: 24 h)"""

_SHORTEST = 1.0  # certificates count in whole seconds


def utc_now() -> datetime:
    """Return the wall clock's time, which is what certificates are about."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, repr=False)
class Authority:
    """Issues certificates for the names of one trust domain; made by :meth:`create`, or read from its directory.

    A root signs workloads' certificates itself: one signature less to make, to send and to check in every handshake.
    Who wants to keep the root's key off the hosts that serve makes an authority below it with :meth:`subordinate`.

    Args:
        trust_domain: The names that it issues belong to this one.
        anchors: Whom workloads shall trust: its root, and others while one root follows another.
        issuers: Its own certificate, then those between it and an anchor.
        key: Its private key; never in a ``repr``.
        now: The wall clock, for tests.
    """

    trust_domain: str
    anchors: tuple[x509.Certificate, ...]
    issuers: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey
    now: Callable[[], datetime] = field(default=utc_now, compare=False)

    @classmethod
    def create(
        cls, trust_domain: str = "mesh.local", *, lifetime: float = ROOT_LIFETIME, now: Callable[[], datetime] = utc_now
    ) -> Authority:
        """Make a new root, in memory.

        Args:
            trust_domain: For example ``mesh.local``.
            lifetime: Seconds that it is valid.
            now: The wall clock, for tests.

        Raises:
            InvalidConfiguration: if the domain is none, or the lifetime is not one.
        """
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        root = _signed_authority(check_trust_domain(trust_domain), key, None, key, now(), lifetime)
        return cls(trust_domain, (root,), (root,), key, now)

    def subordinate(self, *, lifetime: float = ISSUER_LIFETIME) -> Authority:
        """Make an authority below this one: it issues workloads' certificates, and no other authorities.

        Args:
            lifetime: Seconds that it is valid; never longer than this one.
        """
        from cryptography.hazmat.primitives.asymmetric import ec

        self.check_valid()
        if not _may_delegate(self.certificate):
            raise InvalidConfiguration(
                f"this authority of {self.trust_domain} is below another one itself: make the new one below the root"
            )
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _signed_authority(self.trust_domain, key, self.certificate, self.key, self.now(), lifetime)
        return Authority(self.trust_domain, self.anchors, (certificate, *self.intermediates), key, self.now)

    def current(self) -> Authority:
        """Return itself: one that is kept on disk may have changed."""
        return self

    @property
    def certificate(self) -> x509.Certificate:
        """Its own certificate."""
        return self.issuers[0]

    @property
    def intermediates(self) -> tuple[x509.Certificate, ...]:
        """What a workload sends after its own certificate: those that peers do not have as anchors."""
        return tuple(one for one in self.issuers if one not in self.anchors)

    @property
    def not_after(self) -> datetime:
        """When it can issue no more (UTC)."""
        return min(one.not_valid_after_utc for one in self.issuers)

    def check_valid(self) -> None:
        """Raise :exc:`~linkerd_proxy.errors.NoCredentials` if its own certificate is not valid now."""
        now = self.now()
        if now < self.certificate.not_valid_before_utc:
            raise NoCredentials(f"{self!r} is not valid yet", remedy="correct this host's clock")
        if now >= self.not_after:
            raise NoCredentials(f"{self!r} has expired", remedy="make a new one with 'linkerd-proxy authority init'")

    def check_name(self, name: str) -> str:
        """Return a name that this authority may issue.

        Raises:
            InvalidConfiguration: if it is no workload's, or belongs to another trust domain.
        """
        return check_name(name, self.trust_domain)

    def issue(self, name: str, *, lifetime: float = LEAF_LIFETIME) -> Credentials:
        """Make a key and a certificate for a workload.

        Args:
            name: DNS-like (``web.mesh.local``, ``<sa>.<ns>.serviceaccount.identity.linkerd.mesh.local``) or
                ``spiffe://mesh.local/path``.
            lifetime: Seconds that the certificate is valid.

        Raises:
            InvalidConfiguration: if the name or the lifetime is not one that it may issue.
            NoCredentials: if its own certificate has expired.
        """
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        chain = self._signed(self.check_name(name), key.public_key(), lifetime)
        return Credentials(name, chain, key, self.anchors)

    def sign(self, name: str, request: bytes, *, lifetime: float = LEAF_LIFETIME) -> tuple[x509.Certificate, ...]:
        """Answer a certificate signing request with the leaf, then its intermediates.

        Only the public key is taken from the request, after its holder was shown to have the private one.

        Args:
            name: Whom the certificate is for: the caller has made sure that the requester is that workload.
            request: PKCS #10, DER.
            lifetime: Seconds that the certificate is valid.

        Raises:
            RefusedRequest: saying what is wrong with the request.
            InvalidConfiguration: if the name or the lifetime is not one that it may issue.
            NoCredentials: if its own certificate has expired.
        """
        from linkerd_proxy.tls.csr import requested_key

        return self._signed(name, requested_key(request, self.check_name(name)), lifetime)

    def _signed(self, name: str, public_key: PublicKey, lifetime: float) -> tuple[x509.Certificate, ...]:
        self.check_valid()
        leaf = signed_leaf(
            name,
            public_key,
            issuer=self.certificate,
            signer=self.key,
            issued=self.now(),
            lifetime=_checked(lifetime),
        )
        return (leaf, *self.intermediates)

    def __repr__(self) -> str:
        return f"<Authority of {self.trust_domain} until {self.not_after:%Y-%m-%dT%H:%M:%SZ}>"


def fingerprint(certificate: x509.Certificate) -> str:
    """Return a certificate's SHA-256, as ``openssl x509 -fingerprint -sha256`` shows it."""
    from cryptography.hazmat.primitives import hashes

    return "SHA256:" + certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def _checked(lifetime: float) -> float:
    if not _SHORTEST <= lifetime <= 100 * ROOT_LIFETIME:
        bounds = f"{_SHORTEST:g} s to {100 * ROOT_LIFETIME / 86400:g} d"
        raise InvalidConfiguration(f"a lifetime of {lifetime:g} s is none: give {bounds}")
    return lifetime


def _may_delegate(certificate: x509.Certificate) -> bool:
    from cryptography import x509

    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    return constraints.path_length is None or constraints.path_length > 0


def _signed_authority(
    trust_domain: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    signer: ec.EllipticCurvePrivateKey,
    issued: datetime,
    lifetime: float,
) -> x509.Certificate:
    """Return an authority's certificate; a root's if there is no issuer."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    serial = x509.random_serial_number()
    # A subject of its own, since two roots of one domain live side by side while one follows the other, and verifiers
    # look issuers up by name. A common name holds 64 characters (RFC 5280 appendix A.1).
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, trust_domain[:64]),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{serial:x}"[:16]),
        ]
    )
    end = issued + timedelta(seconds=_checked(lifetime))
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(issued - timedelta(seconds=SKEW))
        .not_valid_after(min(end, issuer.not_valid_after_utc) if issuer else end)
        # Below it come leaves only, or for a root one more authority.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if issuer else 1), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        # X509-SVID.md section 4.1: a signing certificate names its trust domain, without a path.
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    return builder.sign(signer, hashes.SHA256())
