"""OpenSSL's errors, as reasons of ours. Its names for them are part of its interface and do not change."""

from __future__ import annotations

from typing import Final

import trio
from OpenSSL import SSL

from linkerd_proxy.tls.refusal import Refused

__all__ = ["broken_by", "chain_refusal", "refusal_of"]

# Numbers of openssl/x509_vfy.h, X509_V_ERR_...
_CHAIN: Final[dict[int, str]] = {
    2: "unknown_ca",  # unable to get issuer certificate
    4: "bad_signature",  # unable to decrypt certificate's signature
    6: "malformed",  # unable to decode issuer's public key
    7: "bad_signature",
    9: "not_yet_valid",
    10: "expired",
    13: "malformed",  # not before
    14: "malformed",  # not after
    18: "self_signed",  # depth zero
    19: "unknown_ca",  # self-signed certificate in chain
    20: "unknown_ca",  # unable to get local issuer certificate
    21: "unknown_ca",  # unable to verify leaf signature
    22: "constraints",  # chain too long
    23: "revoked",
    24: "invalid_ca",
    25: "constraints",  # path length exceeded
    26: "purpose",
    27: "unknown_ca",  # not trusted
    32: "invalid_ca",  # key usage without certificate signing
    34: "malformed",  # unhandled critical extension
    37: "invalid_ca",  # a non-CA with CA markings
    39: "key_usage",  # no digital signature
    41: "malformed",  # invalid extension
    47: "constraints",  # permitted subtree
    48: "constraints",  # excluded subtree
    62: "host",
    66: "weak",  # key of the leaf too small
    67: "weak",  # key of the authority too small
    68: "weak",  # digest too weak
    79: "invalid_ca",
    94: "invalid_ca",  # basic constraints not critical, and their like
}

_ERRORS: Final[tuple[tuple[str, str], ...]] = (
    # The first that is in OpenSSL's text decides.
    ("peer did not return a certificate", "no_certificate"),
    ("alert", "alert"),
    ("unsupported protocol", "version"),
    ("no protocols available", "version"),
    ("wrong ssl version", "version"),
    ("version too low", "version"),
    ("unknown protocol", "version"),
    ("http request", "not_tls"),
    ("https proxy request", "not_tls"),
    ("wrong version number", "not_tls"),
    ("packet length too long", "not_tls"),
    ("no shared cipher", "cipher"),
    ("no suitable", "cipher"),
    ("no shared group", "cipher"),
    ("bad key share", "cipher"),
    ("unexpected eof", "eof"),
)


def chain_refusal(number: int, depth: int, detail: str) -> Refused:
    """Return why a certificate of the chain was not accepted.

    Args:
        number: OpenSSL's number for it.
        depth: How far from the leaf, which is 0.
        detail: What else is known.
    """
    reason = _CHAIN.get(number, "invalid")
    where = f"its issuer at depth {depth}, " if depth else ""
    return Refused(reason, f"{where}{detail}")


def refusal_of(error: SSL.Error) -> Refused:
    """Return why a handshake failed."""
    text = _text(error)
    for part, reason in _ERRORS:
        if part in text.lower():
            return Refused(reason, text)
    return Refused("protocol", text)


def broken_by(error: SSL.Error) -> trio.BrokenResourceError:
    """Return what a stream raises for a failure after the handshake: the peer's alert, or what was wrong."""
    text = _text(error)
    _, found, alert = text.partition("alert ")
    broken = trio.BrokenResourceError(f"the peer sent the TLS alert {alert!r}" if found else f"TLS failed: {text}")
    broken.__cause__ = error
    return broken


def _text(error: SSL.Error) -> str:
    if isinstance(error, SSL.SysCallError):
        return str(error.args[-1])
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(entry[-1]) for entry in entries) or type(error).__name__
