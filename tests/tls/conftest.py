"""Certificates of every kind, and TLS connections in memory."""

from __future__ import annotations

import datetime
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.tls.identity import Credentials

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)
WEB = "web.mesh.example"
API = "api.mesh.example"


def usage(*allowed: str) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: name in allowed for name in names})


@dataclass
class Issuer:
    """An authority that issues anything, also what no authority should."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def issue(self, *names: x509.GeneralName | str, **changes: object) -> Leaf:
        """Issue a leaf; ``changes`` are what is unusual about it."""
        key = changes.pop("key", None) or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, str(changes.pop("cn")))] if "cn" in changes else []
        )
        issuer = changes.pop("issuer", self.certificate.subject)
        signer = changes.pop("signer", self.key)
        start, end = changes.pop("valid", (NOW - DAY, NOW + DAY))
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=bool(changes.pop("ca", False)), path_length=None), critical=True)
        )
        alternatives = [x509.DNSName(name) if isinstance(name, str) else name for name in names]
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=not len(subject))
        allowed = changes.pop("usage", ("digital_signature",))
        if allowed is not None:
            builder = builder.add_extension(usage(*allowed), critical=True)
        purposes = changes.pop("purposes", (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH))
        if purposes is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        # As real authorities have it, and as Python 3.13 and later insist on (RFC 5280 section 4.2.1.1).
        above = changes.pop("authority_key", signer).public_key()
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(above), critical=False)
        for extension, critical in changes.pop("extensions", ()):
            builder = builder.add_extension(extension, critical=critical)
        assert not changes, changes
        return Leaf(builder.sign(signer, hashes.SHA256()), key)

    def credentials(self, name: str = WEB, **changes: object) -> Credentials:
        """Issue credentials that are as they should be, for a DNS-like name or a SPIFFE ID."""
        alternative = x509.UniformResourceIdentifier(name) if name.startswith("spiffe:") else x509.DNSName(name)
        return self.issue(alternative, **changes).credentials(name, self)


@dataclass
class Leaf:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    above: tuple[x509.Certificate, ...] = field(default=())

    def credentials(self, name: str, *trusted: Issuer) -> Credentials:
        return Credentials(
            name, (self.certificate, *self.above), self.key, tuple(issuer.certificate for issuer in trusted)
        )

    @property
    def pem(self) -> tuple[bytes, bytes]:
        """The certificates and the key."""
        chain = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in (self.certificate, *self.above))
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return chain, key


def make_issuer(name: str = "test root", **changes: object) -> Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start, end = changes.pop("valid", (NOW - 10 * DAY, NOW + 10 * DAY))
    parent = changes.pop("parent", None)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if parent is None else parent.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(
            x509.BasicConstraints(ca=bool(changes.pop("ca", True)), path_length=changes.pop("path_length", None)),
            critical=True,
        )
        .add_extension(usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if parent is not None:
        above = x509.AuthorityKeyIdentifier.from_issuer_public_key(parent.key.public_key())
        builder = builder.add_extension(above, critical=False)
    for extension, critical in changes.pop("extensions", ()):
        builder = builder.add_extension(extension, critical=critical)
    assert not changes, changes
    return Issuer(builder.sign(key if parent is None else parent.key, hashes.SHA256()), key)


def issuer_pem(issuer: Issuer) -> bytes:
    return issuer.certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return make_issuer()


@asynccontextmanager
async def both(first, second):
    """Run two coroutines at once, and yield what they returned."""
    results = [None, None]

    async def keep(index, coroutine):
        results[index] = await coroutine

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep, 0, first)
        nursery.start_soon(keep, 1, second)
    yield results


def failures(side):
    """Return how many handshakes failed, by reason."""
    return {
        dict(labels)["reason"]: int(series.value)
        for family in current_registry()
        if family.name == "tls_handshake_failures_total"
        for labels, series in family.series.items()
        if dict(labels)["side"] == side
    }
