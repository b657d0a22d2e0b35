"""Who a certificate is: OpenSSL has checked chain and time, and this checks the one name and what the key may do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from cryptography import x509

from linkerd_proxy.names import is_spiffe, problem_of
from linkerd_proxy.tls.federation import check_vouching
from linkerd_proxy.tls.identity import Credentials
from linkerd_proxy.tls.refusal import Refused

__all__ = ["Presented", "Verification", "identity_of", "presented"]

_REMEMBERED = 1024  # certificates: of a mesh's workloads that come again and again; each takes some 2 KB

E = TypeVar("E", bound=x509.ExtensionType)


@dataclass(slots=True)
class Verification:
    """What one handshake expects of its peer's certificate, and what came of it.

    Args:
        expected: The name that it must prove, or None for any one name.
        named: Whether it must prove an identity at all; host names of the ordinary web are checked elsewhere.
    """

    expected: str | None = None
    named: bool = True
    anchor: x509.Certificate | None = None
    """What the peer's chain goes up to."""
    name: str | None = None
    """The name that was proved."""
    refused: Refused | None = None
    """Why the certificate was not accepted."""

    def accept(self, leaf: Presented, trusting: Credentials | None = None) -> bool:
        """Check a leaf whose chain is good for whom we trust. Never raises: it is called from within OpenSSL."""
        if not self.named:
            return True
        try:
            name = leaf.name
            if self.expected is not None and name != self.expected:
                raise Refused("identity", f"{name} instead of {self.expected}")
            if trusting is not None:
                check_vouching(name, self.anchor, trusting)
        except Refused as refused:
            self.refused = refused
            return False
        self.name = name
        return True


class Presented:
    """A certificate that a peer showed, read as far as somebody asked."""

    __slots__ = ("_name", "certificate")

    def __init__(self, certificate: x509.Certificate) -> None:
        self.certificate: x509.Certificate = certificate
        self._name: str | None = None

    @property
    def name(self) -> str:
        """The identity that it proves. Raises as :func:`identity_of`, each time."""
        if self._name is None:
            self._name = identity_of(self.certificate)
        return self._name

    def __repr__(self) -> str:
        return f"<Presented {self._name or 'certificate'}>"


@lru_cache(_REMEMBERED)
def presented(der: bytes) -> Presented:
    """Read a certificate that OpenSSL found good, by its bytes: once, for what one says does not change.

    Its time is not looked at here: OpenSSL does that in every handshake.
    """
    return Presented(x509.load_der_x509_certificate(der))


def identity_of(leaf: x509.Certificate) -> str:
    """Return the one identity that a workload's certificate proves.

    That is its only alternative name of type DNS or URI. The subject's common name counts for nothing, and addresses
    and e-mail addresses are no identities (RFC 9525 section 2, X509-SVID.md sections 2 to 5 of the SPIFFE standards).

    Raises:
        Refused: if there is none or more than one, if it is no name of an identity, or if the certificate is not one
            of a workload.
    """
    try:
        extensions = leaf.extensions
    except ValueError as error:
        raise Refused("malformed", str(error)) from None
    name = _one_name(_get(extensions, x509.SubjectAlternativeName))
    _check_is_leaf(extensions, is_spiffe(name))
    return name


def _get(extensions: x509.Extensions, kind: type[E]) -> E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _one_name(alternatives: x509.SubjectAlternativeName | None) -> str:
    names: list[str] = []
    if alternatives is not None:
        names += alternatives.get_values_for_type(x509.DNSName)
        names += alternatives.get_values_for_type(x509.UniformResourceIdentifier)
    if not names:
        raise Refused("no_name")
    if len(names) > 1:
        raise Refused("many_names", ", ".join(names[:4]))
    name = names[0]
    problem = problem_of(name)
    if problem is not None:
        raise Refused("wildcard" if "*" in name and not is_spiffe(name) else "bad_name", f"{name[:300]!r}: {problem}")
    return name


def _check_is_leaf(extensions: x509.Extensions, spiffe: bool) -> None:
    basic = _get(extensions, x509.BasicConstraints)
    if basic is not None and basic.ca:
        raise Refused("ca_as_leaf")
    usage = _get(extensions, x509.KeyUsage)
    if usage is None:
        if spiffe:  # X509-SVID.md section 4.3: it must be set
            raise Refused("key_usage", "there is none")
        return
    if usage.key_cert_sign or usage.crl_sign:
        raise Refused("key_usage", "it may sign certificates")
    if not usage.digital_signature:
        raise Refused("key_usage", "it may not sign")
