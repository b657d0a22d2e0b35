"""OpenSSL contexts: one profile for links of the mesh, another for the ordinary web."""

from __future__ import annotations

import logging
from typing import Any, Final

from cryptography import x509
from OpenSSL import SSL, crypto

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.tls.federation import anchors_of_all
from linkerd_proxy.tls.identity import Credentials, LiveIdentity
from linkerd_proxy.tls.reasons import chain_refusal
from linkerd_proxy.tls.refusal import Refused, Side
from linkerd_proxy.tls.verify import Verification, presented

__all__ = ["Contexts", "egress_context", "mesh_context"]

logger: logging.Logger = logging.getLogger("linkerd_proxy.tls")

_SUITES: Final[bytes] = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
# Linkerd's lists. Where OpenSSL has no ML-KEM (before 3.5) the second is for it.
_GROUPS: Final[tuple[bytes, ...]] = (b"X25519MLKEM768:X25519:P-256:P-384", b"X25519:P-256:P-384")
_UNREADABLE = 200  # characters of why a certificate can't be read
_DEPTH = 9  # certificates between leaf and anchor, as OpenSSL's command line allows


def mesh_context(
    credentials: Credentials, side: Side, *, alpn: tuple[str, ...] = (), require_identity: bool = False
) -> SSL.Context:
    """Make the context of one side of mesh links: TLS 1.3 only, nothing resumed, both sides with a certificate.

    Args:
        credentials: What to prove, and whom to trust.
        side: Which side.
        alpn: What a server chooses from, the first that the client offers too; without any in common there is none.
        require_identity: Whether a server refuses clients without a certificate.

    Raises:
        OpenSSL.SSL.Error: if the certificate and the key do not belong together.
    """
    context = _context()
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(_SUITES)
    # Our order counts among what both have: clients with OpenSSL's put 256 bits first, which no attack asks for, and
    # SHA-384 with them, which costs a handshake time and no processor has instructions for.
    context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    _set_groups(context)
    context.use_certificate(credentials.chain[0])
    for certificate in credentials.chain[1:]:
        context.add_extra_chain_cert(certificate)
    key: Any = credentials.key  # of whatever kind: pyOpenSSL says itself which it can't use
    context.use_privatekey(key)
    context.check_privatekey()
    store = context.get_cert_store()
    assert store is not None
    for anchor in anchors_of_all(credentials):
        store.add_cert(crypto.X509.from_cryptography(anchor))
    # An anchor is an anchor, whether it is signed by itself or not, as rustls has it.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    mode = SSL.VERIFY_PEER
    if side == "server":
        if require_identity:
            mode |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        if alpn:
            context.set_alpn_select_callback(_Choose(alpn))
    context.set_verify(mode, _on_certificate)
    context.set_app_data(credentials)
    return context


def egress_context(roots: str | None = None) -> SSL.Context:
    """Make the context for upstreams of the ordinary web: TLS 1.2 or later, checked against roots that are trusted.

    Args:
        roots: A file of PEM certificates; by default the system's.

    Raises:
        InvalidConfiguration: if the file can't be used.
    """
    context = _context()
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(b"ECDHE+AESGCM:ECDHE+CHACHA20")
    if roots is None:
        context.set_default_verify_paths()
    else:
        try:
            context.load_verify_locations(roots)
        except SSL.Error:
            raise InvalidConfiguration(f"roots={roots!r}: give a readable file of PEM certificates") from None
    context.set_verify(SSL.VERIFY_PEER, _on_certificate)
    return context


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    # A resumed session is one whose certificate nobody checked again: identities must not outlive theirs.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.set_verify_depth(_DEPTH)
    return context


def _set_groups(context: SSL.Context) -> None:
    # pyOpenSSL has no method for it. Without it OpenSSL's own list holds, which is as safe and only less exact.
    try:
        library: Any = SSL._lib  # type: ignore[attr-defined]
        for groups in _GROUPS:
            if library.SSL_CTX_set1_curves_list(context._context, groups) == 1:
                return
            library.ERR_clear_error()
    except (AttributeError, TypeError):
        return  # a release of pyOpenSSL that is other inside


class _Choose:
    """Chooses the protocol of a server."""

    __slots__ = ("protocols",)

    def __init__(self, alpn: tuple[str, ...]) -> None:
        self.protocols = [name.encode() for name in alpn]

    def __call__(self, _connection: SSL.Connection, offered: list[bytes]) -> Any:  # bytes, or pyOpenSSL's own mark
        return next((name for name in self.protocols if name in offered), SSL.NO_OVERLAPPING_PROTOCOLS)


def _on_certificate(connection: SSL.Connection, shown: crypto.X509, number: int, depth: int, good: int) -> bool:
    """Say whether a certificate of the peer's chain is accepted: OpenSSL asks from the anchor down to the leaf."""
    verification = connection.get_app_data()
    if not isinstance(verification, Verification):
        return bool(good)
    try:
        if not good:
            described = _described(shown.to_cryptography())
            verification.refused = verification.refused or chain_refusal(number, depth, described)
            return False
        trusting: Credentials | None = connection.get_context().get_app_data()
        if depth > 0 and (trusting is None or not trusting.federated):
            return True  # who vouches for the peer matters only where not everybody may vouch for everybody
        certificate = presented(crypto.dump_certificate(crypto.FILETYPE_ASN1, shown))
        verification.anchor = verification.anchor or certificate.certificate
        return depth > 0 or verification.accept(certificate, trusting)
    # What OpenSSL can read, the other library need not: several kinds, for bytes of a peer's.
    except Exception as error:
        verification.refused = verification.refused or Refused("malformed", str(error)[:_UNREADABLE])
        return False


def _described(certificate: x509.Certificate) -> str:
    try:
        subject = certificate.subject.rfc4514_string()
    except ValueError:
        subject = "unreadable"
    until = f"valid from {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
    return f"subject {subject[:200]!r}, {until} to {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"


class Contexts:
    """The context of a live identity's newest credentials: made when they are first used, and whole or not at all.

    Args:
        identity: Whose.
        side: Which side.
        alpn: As for :func:`mesh_context`.
        require_identity: As for :func:`mesh_context`.
    """

    __slots__ = ("_alpn", "_context", "_identity", "_made_of", "_require", "_side")

    def __init__(
        self, identity: LiveIdentity, side: Side, *, alpn: tuple[str, ...] = (), require_identity: bool = False
    ) -> None:
        self._identity = identity
        self._side: Side = side
        self._alpn = alpn
        self._require = require_identity
        self._made_of: Credentials | None = None
        self._context: SSL.Context | None = None

    def current(self) -> SSL.Context:
        """Return the context for a new connection. Those that are open keep theirs.

        Raises:
            NoCredentials: if there are no credentials yet.
            Refused: if they can't be used, and none could before.
        """
        credentials = self._identity.require()
        if credentials is not self._made_of:
            self._made_of = credentials
            try:
                self._context = mesh_context(credentials, self._side, alpn=self._alpn, require_identity=self._require)
            except (SSL.Error, TypeError, ValueError) as error:
                logger.error("the new certificate of %s can't be used, the one before stays: %s", credentials, error)
        if self._context is None:
            raise Refused("own")
        return self._context

    def __repr__(self) -> str:
        return f"<Contexts of {self._identity!r} as {self._side}>"
