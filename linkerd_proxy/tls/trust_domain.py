"""Trust domains: the names that one authority may issue."""

from __future__ import annotations

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.names import is_spiffe, problem_of

__all__ = ["check_name", "check_trust_domain"]


def check_trust_domain(domain: str) -> str:
    """Return a trust domain if DNS-like names can end in it and SPIFFE IDs begin with it: ``mesh.local``.

    Raises:
        InvalidConfiguration: saying what is wrong with it.
    """
    problem = "it is a SPIFFE ID, not a domain" if is_spiffe(domain) else problem_of(domain)
    if problem is not None:
        raise InvalidConfiguration(
            f"{_short(domain)} is no trust domain, {problem}: write lower-case labels with dots, as in mesh.local"
        )
    return domain


def check_name(name: str, domain: str) -> str:
    """Return a workload's name if it is one of a trust domain: ``web.mesh.local``, ``spiffe://mesh.local/web``.

    Raises:
        InvalidConfiguration: saying what is wrong with it.
    """
    problem = problem_of(name)
    if problem is None and not (name.startswith(f"spiffe://{domain}/") or name.endswith(f".{domain}")):
        problem = f"it is not in the trust domain {domain}"
    if problem is not None:
        raise InvalidConfiguration(
            f"{_short(name)} can't be issued, {problem}: "
            f"give a name as web.{domain} (lower-case labels with dots) or spiffe://{domain}/web"
        )
    return name


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}...")
