"""The names that identities have: DNS-like, as Linkerd's, or SPIFFE IDs. Nothing else names a peer.

Two spellings of one name would be two names to a policy and one to a reader, so there is one: lower case, no trailing
dot, no wildcard, no escapes. RFC 1123 section 2.1; SPIFFE-ID.md section 2 of the SPIFFE standards.
"""

from __future__ import annotations

import re

from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["check_identity", "is_dns_like", "is_spiffe", "problem_of"]

_MAX_DNS = 253
_MAX_SPIFFE = 2048  # SPIFFE-ID.md section 2.3
_MAX_TRUST_DOMAIN = 255
_SCHEME = "spiffe://"
# Underscores occur in workloads' names (rustls takes them too).
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")


def is_spiffe(name: str) -> bool:
    """Whether a name claims to be a SPIFFE ID."""
    return name.startswith(_SCHEME)


def is_dns_like(name: str) -> bool:
    """Whether a name is one that can be sent as SNI: well formed, and no SPIFFE ID."""
    return not is_spiffe(name) and problem_of(name) is None


def problem_of(name: str) -> str | None:
    """Return why a name can't be an identity, or None if it can."""
    return _spiffe_problem(name) if is_spiffe(name) else _dns_problem(name)


def check_identity(name: str, where: str) -> None:
    """Refuse a name that nobody can prove.

    Args:
        name: What is expected of a peer, or claimed.
        where: Who says so, for the message, as in ``Aim('WEB')``.

    Raises:
        InvalidConfiguration: naming it, what is wrong, and what a name looks like.
    """
    problem = problem_of(name)
    if problem is not None:
        raise InvalidConfiguration(
            f"{where} is no identity: {problem}; give a name as its certificate has it, web.mesh.local or "
            "spiffe://mesh.local/web"
        )


def _dns_problem(name: str) -> str | None:
    if not name:
        return "it is empty"
    if "*" in name:
        return "a wildcard names nobody"
    if name != name.lower():
        return "it has upper-case letters"
    if name.endswith("."):
        return "it ends with a dot"
    if len(name) > _MAX_DNS:
        return f"it has more than {_MAX_DNS} characters"
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        return "it is neither a DNS name nor a SPIFFE ID"
    if labels[-1].isdigit():
        return "it is an address"
    return None


def _spiffe_problem(name: str) -> str | None:
    if len(name) > _MAX_SPIFFE:
        return f"it has more than {_MAX_SPIFFE} characters"
    domain, slash, path = name.removeprefix(_SCHEME).partition("/")
    if len(domain) > _MAX_TRUST_DOMAIN or not _TRUST_DOMAIN.fullmatch(domain):
        return "its trust domain is malformed"
    if not slash or not path:
        return "it has no path: a trust domain is no workload"
    for segment in path.split("/"):
        if not _SEGMENT.fullmatch(segment) or segment in {".", ".."}:
            return "its path is malformed"
    return None
