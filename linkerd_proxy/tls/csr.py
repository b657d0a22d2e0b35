"""What an authority takes from a certificate signing request: the public key, once everything else is as it must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from linkerd_proxy.tls.leaf import general_name

if TYPE_CHECKING:
    from cryptography import x509

    from linkerd_proxy.tls.leaf import PublicKey

__all__ = ["LARGEST", "RefusedRequest", "requested_key"]

LARGEST = 8192
"""Bytes; one with an RSA key of 4096 bits has 1,700. (own figure)"""
_RSA_BITS = range(2048, 8193)  # checking a signature of a larger one would cost the authority too much
_SMALLEST_EXPONENT = 65537  # NIST SP 800-56B section 6.2


class RefusedRequest(ValueError):
    """A certificate signing request can't be signed; the message says what is wrong with it and the remedy."""


def requested_key(request: bytes, name: str) -> PublicKey:
    """Return the public key of a request, if its holder proved that the private key is his and asks for one name.

    Args:
        request: PKCS #10, DER (RFC 2986).
        name: The only name that it may ask for.

    Raises:
        RefusedRequest: in any other case.
    """
    csr = _parsed(request)
    key = _checked_key(csr)
    _check_signature(csr)  # after the key, whose size says what that costs
    _check_subject(csr, name)
    try:
        extensions = csr.extensions
    except Exception as error:  # duplicates, unreadable values: cryptography raises several kinds
        raise RefusedRequest(
            f"the request's extensions can't be read ({_first_line(error)}): ask for the name only"
        ) from None
    _check_extensions(extensions, name)
    return key


def _parsed(request: bytes) -> x509.CertificateSigningRequest:
    from cryptography import x509

    if not request:
        raise RefusedRequest("there is no certificate signing request: send PKCS #10 in DER")
    if len(request) > LARGEST:
        raise RefusedRequest(f"the request has {len(request)} bytes: send at most {LARGEST}")
    if request.lstrip().startswith(b"-----BEGIN"):
        raise RefusedRequest("the request is PEM: send its DER")
    try:
        return x509.load_der_x509_csr(request)
    except Exception:  # ValueError, and whatever else a parser has for bytes that a peer chose
        raise RefusedRequest("this is no certificate signing request: send PKCS #10 in DER") from None


def _checked_key(csr: x509.CertificateSigningRequest) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        key = csr.public_key()
    except Exception as error:  # a curve nobody knows, a point that is not on its curve
        raise RefusedRequest(f"the request's key can't be used ({_first_line(error)}): make one on P-256") from None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, ec.SECP256R1):
            raise RefusedRequest(f"the request's key is on the curve {key.curve.name}: make one on P-256")
        return key
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size not in _RSA_BITS or key.public_numbers().e < _SMALLEST_EXPONENT:
            raise RefusedRequest(
                f"the request's RSA key has {key.key_size} bits and the exponent {key.public_numbers().e}: "
                "make one on P-256, or of 2048 to 8192 bits with 65537"
            )
        return key
    raise RefusedRequest("the request's key is of a kind that is not issued: make one on P-256, Ed25519 or RSA")


def _check_signature(csr: x509.CertificateSigningRequest) -> None:
    from cryptography.hazmat.primitives import hashes

    try:
        digest = csr.signature_hash_algorithm
        valid = csr.is_signature_valid
    except Exception as error:  # an algorithm that the library does not know, or that does not go with the key
        raise RefusedRequest(f"the request's signature can't be checked ({_first_line(error)}): use SHA-256") from None
    if digest is not None and not isinstance(digest, (hashes.SHA256, hashes.SHA384, hashes.SHA512)):
        raise RefusedRequest(f"the request is signed with {digest.name}: use SHA-256")
    if not valid:
        raise RefusedRequest("the request's signature is wrong: sign it with the key that it asks a certificate for")


def _check_subject(csr: x509.CertificateSigningRequest, name: str) -> None:
    from cryptography.x509.oid import NameOID

    try:
        subject = [(one.oid, one.value) for one in csr.subject]
    except Exception as error:
        raise RefusedRequest(f"the request's subject can't be read ({_first_line(error)}): leave it empty") from None
    # A leaf has no subject at all; one that says something else shows a client that means another name.
    if any(oid != NameOID.COMMON_NAME or value != name for oid, value in subject):
        raise RefusedRequest("the request's subject says something else than the name: leave it empty")


def _check_extensions(extensions: x509.Extensions, name: str) -> None:
    from cryptography import x509

    names: x509.SubjectAlternativeName | None = None
    for extension in extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names = extension.value
        else:
            asked = _too_much(extension.value)
            if asked is not None:
                raise RefusedRequest(f"the request asks for {asked}: ask for the name only")
    if names is None or list(names) != [general_name(name)]:
        raise RefusedRequest(f"the request asks for other alternative names than the one it may have: ask for {name}")


def _too_much(value: x509.ExtensionType) -> str | None:
    """Return what a request wants that no workload gets. Refusing tells a client more than leaving it out."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    if isinstance(value, x509.BasicConstraints):
        return "an authority's certificate" if value.ca else None
    if isinstance(value, x509.KeyUsage):
        return "the right to sign certificates" if value.key_cert_sign or value.crl_sign else None
    if isinstance(value, x509.ExtendedKeyUsage):
        others = set(value) - {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
        return "other uses than the two sides of TLS" if others else None
    return None if isinstance(value, x509.SubjectKeyIdentifier) else f"the extension {value.oid.dotted_string}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:120] or type(error).__name__
