"""An authority on disk, and the identities that it hands out as files."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.tls.authority import Authority, Chain, utc_now
from linkerd_proxy.tls.identity import Credentials
from linkerd_proxy.tls.private import (
    check_directory,
    check_owner,
    create_file,
    make_directory,
    read_file,
    read_private,
    replace_file,
)

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

__all__ = [
    "ANCHORS",
    "ISSUER",
    "KEY",
    "create_store",
    "key_pem",
    "read_certificates",
    "read_store",
    "to_der",
    "to_pem",
    "write_identity",
]

ANCHORS = "ca.pem"
"""In an authority's directory and in an identity's: whom to trust."""
ISSUER = "issuer.pem"
"""The authority's own certificate, then those up to an anchor."""
KEY = "issuer.key"
"""The authority's private key."""


def create_store(directory: Path, authority: Authority) -> None:
    """Write an authority to a directory that holds none. ``ca.pem`` comes last: with it the authority is complete.

    Raises:
        InvalidConfiguration: if there is one already, or the directory can't be used. Nothing is left behind.
    """
    make_directory(directory)
    check_owner(directory)
    files = (
        (KEY, key_pem(authority.key), 0o600),
        (ISSUER, to_pem(authority.issuers), 0o644),
        (ANCHORS, to_pem(authority.anchors), 0o644),
    )
    written: list[Path] = []
    try:
        for name, data, mode in files:
            create_file(directory / name, data, mode=mode)
            written.append(directory / name)
    except OSError as error:
        for path in written:
            path.unlink()
        if isinstance(error, FileExistsError):
            present = files[len(written)][0]
            raise InvalidConfiguration(
                f"{directory} has the {present} of an authority already: give another directory; "
                "what it has issued is worth nothing without it"
            ) from None
        raise InvalidConfiguration(f"cannot write to {directory}: {error.strerror}") from None


def read_store(directory: Path, *, now: Callable[[], datetime] = utc_now) -> Authority:
    """Read an authority from its directory.

    Args:
        directory: As :func:`create_store` has made it.
        now: The wall clock, for tests.

    Raises:
        InvalidConfiguration: if there is none, if others can read its key or change it, or if its parts do not belong
            together.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    check_directory(directory)
    check_owner(directory)
    if not (directory / ANCHORS).exists():
        init = f"'linkerd-proxy authority init {directory}'"
        if (directory / KEY).exists():
            raise InvalidConfiguration(
                f"{directory} holds an authority that was never finished: empty it and use {init}"
            )
        raise InvalidConfiguration(f"{directory} holds no authority: make one with {init}")
    key = _read_key(directory / KEY)
    issuers = read_certificates(directory / ISSUER)
    anchors = read_certificates(directory / ANCHORS)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidConfiguration(f"{directory / KEY} is no key on P-256: put the one that 'authority init' made back")
    if issuers[0].public_key() != key.public_key():
        raise InvalidConfiguration(
            f"{directory / KEY} is not the key of {ISSUER}: put back the two that belong together"
        )
    return Authority(
        _trust_domain(issuers[0], directory / ISSUER), _linked(anchors, issuers, directory), issuers, key, now
    )


def write_identity(directory: Path, credentials: Credentials) -> None:
    """Write ``ca.pem``, ``cert.pem`` and ``key.pem`` (mode 0600) for a proxy to read.

    ``cert.pem`` has the leaf, then its intermediates. An older identity of the same name is
    replaced, each file as a whole.

    Raises:
        InvalidConfiguration: if the directory holds another name's identity, or can't be used.
    """
    make_directory(directory)
    present = directory / "cert.pem"
    if present.exists():
        _check_same_name(present, credentials)
    try:
        replace_file(directory / ANCHORS, to_pem(credentials.anchors), mode=0o644)
        replace_file(directory / "key.pem", key_pem(credentials.key))
        replace_file(present, to_pem(credentials.chain), mode=0o644)
    except OSError as error:
        raise InvalidConfiguration(f"cannot write to {directory}: {error.strerror}") from None


def key_pem(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    """Return a private key, PKCS #8 without a password."""
    from cryptography.hazmat.primitives import serialization

    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, pkcs8, serialization.NoEncryption())


def to_der(certificates: Chain) -> list[bytes]:
    """Return each certificate's DER."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return [one.public_bytes(Encoding.DER) for one in certificates]


def to_pem(certificates: tuple[x509.Certificate, ...]) -> bytes:
    """Return certificates one after the other."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """Return the certificates in a PEM file, at least one.

    Raises:
        InvalidConfiguration: if it has none, or can't be read.
    """
    from cryptography import x509

    try:
        return tuple(x509.load_pem_x509_certificates(read_file(path)))
    except InvalidConfiguration:
        raise
    except ValueError as error:
        raise InvalidConfiguration(f"{path} holds no PEM certificates ({error}): put them back") from None


def _check_same_name(present: Path, credentials: Credentials) -> None:
    from cryptography import x509

    def named(certificate: x509.Certificate) -> object:
        try:
            return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (x509.ExtensionNotFound, ValueError):
            return None

    if named(read_certificates(present)[0]) != named(credentials.chain[0]):
        raise InvalidConfiguration(f"{present.parent} holds the identity of another name: give another directory")


def _read_key(path: Path) -> object:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = read_private(path)
    try:
        return load_pem_private_key(data, password=None)
    except (
        Exception
    ):  # ValueError, TypeError for an encrypted one, UnsupportedAlgorithm; their texts may quote the file
        raise InvalidConfiguration(f"{path} holds no private key in PEM that has no password: put it back") from None


def _trust_domain(certificate: x509.Certificate, path: Path) -> str:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (name,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise ValueError("no authority")
    except (x509.ExtensionNotFound, ValueError):
        raise InvalidConfiguration(
            f"{path} is no authority's certificate that names its trust domain: put it back"
        ) from None
    return name.removeprefix("spiffe://")


def _linked(
    anchors: tuple[x509.Certificate, ...], issuers: tuple[x509.Certificate, ...], directory: Path
) -> tuple[x509.Certificate, ...]:
    """Return the anchors, if one of them is the issuers' end or has signed it."""
    last = issuers[-1]
    for below, above in pairwise(issuers):
        if not _signed_by(below, above):
            raise InvalidConfiguration(f"{directory / ISSUER} is no chain: put each one's issuer after it")
    if not any(last == anchor or _signed_by(last, anchor) for anchor in anchors):
        raise InvalidConfiguration(f"{directory / ANCHORS} has no anchor for {ISSUER}: add the root that signed it")
    return anchors


def _signed_by(below: x509.Certificate, above: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
