"""Which authority may vouch for which name, where several trust domains trust one another."""

from __future__ import annotations

from cryptography import x509

from linkerd_proxy.names import is_spiffe
from linkerd_proxy.tls.identity import Credentials
from linkerd_proxy.tls.refusal import Refused

__all__ = ["anchors_of_all", "check_vouching"]


def anchors_of_all(credentials: Credentials) -> list[x509.Certificate]:
    """Return every trust anchor, our own and those of other trust domains, each once."""
    foreign = (one for anchors in credentials.federated.values() for one in anchors)
    return list(dict.fromkeys((*credentials.anchors, *foreign)))


def check_vouching(name: str, anchor: x509.Certificate | None, credentials: Credentials) -> None:
    """Let the authorities of another trust domain vouch for its SPIFFE IDs, ours for all other names, and nobody else.

    Args:
        name: What the peer's certificate proves.
        anchor: What its chain goes up to.
        credentials: Whom we trust.

    Raises:
        Refused: if that authority may not vouch for that name.

    Source: spiffe/spiffe, standards/X509-SVID.md section 5 and SPIFFE_Federation.md.
    """
    if not credentials.federated:
        return
    domain = name.removeprefix("spiffe://").partition("/")[0] if is_spiffe(name) else ""
    if anchor not in credentials.federated.get(domain, credentials.anchors):
        raise Refused("unknown_ca", f"it may not vouch for {name}")
