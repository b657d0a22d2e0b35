"""Why a handshake ends without a connection: one word for the metric, one sentence for the log, and a remedy."""

from __future__ import annotations

from typing import Literal

from linkerd_proxy.errors import HandshakeFailed, IdentityMismatch, UpstreamHandshakeFailed

__all__ = ["REASONS", "Refused", "Side"]

Side = Literal["client", "server"]
"""Which side of the handshake this proxy is."""

REASONS: dict[str, tuple[str, str]] = {
    "expired": ("{peer} certificate has expired", "renew it"),
    "not_yet_valid": ("{peer} certificate is not valid yet", "compare the clocks of both hosts"),
    "unknown_ca": ("{peer} certificate was issued by an authority that is not trusted here", "compare trust anchors"),
    "self_signed": ("{peer} certificate is signed by itself and not trusted here", "have it issued by the authority"),
    "bad_signature": ("{peer} certificate has a wrong signature", "have it issued anew"),
    "purpose": ("{peer} certificate is not meant for this side of TLS", "issue it for both client and server"),
    "invalid_ca": ("{peer} certificate was issued by one that is no authority", "have it issued by the authority"),
    "constraints": ("{peer} certificate is outside of what its authority may issue", "compare names and path lengths"),
    "revoked": ("{peer} certificate was revoked", "have it issued anew"),
    "weak": ("{peer} certificate has a key or a signature that is too weak", "issue it with ECDSA P-256 and SHA-256"),
    "invalid": ("{peer} certificate is not valid", "have it issued anew"),
    "malformed": ("{peer} certificate is malformed", "have it issued anew"),
    "no_name": ("{peer} certificate names no identity", "issue it for one DNS-like name or SPIFFE ID"),
    "many_names": ("{peer} certificate has several names", "issue it for exactly one DNS-like name or SPIFFE ID"),
    "wildcard": ("{peer} certificate has a wildcard, which names nobody", "issue it for exactly one name"),
    "bad_name": ("{peer} certificate has a name that is no identity", "issue it for a DNS-like name or SPIFFE ID"),
    "ca_as_leaf": ("{peer} certificate is an authority's own", "issue one for the workload"),
    "key_usage": ("{peer} certificate's key usage is not that of a workload", "issue it with digitalSignature alone"),
    "identity": ("{peer} certificate proves another identity", ""),
    "host": ("{peer} certificate is for another host", "correct the host name, or what listens on that address"),
    "bad_host": ("no certificate can be for the host that is expected", "correct Originate(host=...), or the target"),
    "no_certificate": ("{peer} side sent no certificate", "mesh the client, or do not require an identity"),
    "version": ("{peer} side does not speak a TLS version that is allowed here", "use TLS 1.3"),
    "cipher": (
        "{peer} side and this one have no cipher suite or key exchange in common",
        "use TLS 1.3's standard ones",
    ),
    "alert": ("{peer} side refused this one's handshake", "see the other side's log"),
    "not_tls": ("{peer} side does not speak TLS", "correct the address, or mesh what listens there"),
    "eof": ("{peer} side closed the connection during the handshake", "see the other side's log"),
    "reset": ("{peer} side reset the connection during the handshake", "see the other side's log"),
    "timeout": ("{peer} side did not finish the handshake in time", ""),
    "crowded": ("too many handshakes are under way and this one had waited longest for its peer", ""),
    "protocol": ("{peer} side broke the TLS protocol", ""),
    "own": ("this proxy's own certificate can't be used", "see the identity's log lines"),
}
"""Every reason, what it means, and what to do."""


class Refused(Exception):
    """A handshake failed, for a reason of :data:`REASONS`. The layers turn it into an error of theirs.

    Args:
        reason: The word.
        detail: What else is known, in plain words.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def problem(self, side: Side) -> str:
        """Return what happened, as a sentence about the peer."""
        text = REASONS[self.reason][0].format(peer="the client's" if side == "server" else "the server's")
        return f"{text}: {self.detail}" if self.detail else text

    def as_error(
        self, side: Side, *, layer: str, endpoint: str = "", waited: float | None = None
    ) -> HandshakeFailed | UpstreamHandshakeFailed:
        """Return the error that a layer raises for it."""
        kind: type[HandshakeFailed | UpstreamHandshakeFailed] = HandshakeFailed
        if side == "client":
            kind = IdentityMismatch if self.reason == "identity" else UpstreamHandshakeFailed
        remedy = REASONS[self.reason][1]
        error = kind(self.problem(side), layer=layer, endpoint=endpoint, waited=waited, remedy=remedy)
        error.reason = self.reason
        return error
