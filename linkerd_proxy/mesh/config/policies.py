"""The parts of a configuration that say who may use a listener or a route."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.policy.clients import Authentication, Network, TlsAuthenticated, TlsUnauthenticated, Unauthenticated
from linkerd_proxy.policy.server_policy import Authorization, ServerPolicy, default_policy

__all__ = ["AuthorizationEntry", "NetworkEntry", "PolicyEntry", "PolicyOrName", "server_policy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkEntry:
    """A network without some parts of it. A bare text is one without exceptions."""

    cidr: str
    """``10.0.0.0/8``, ``fd00::/8``, or one address."""
    excepted: tuple[str, ...] = field(default=(), metadata={"name": "except"})
    """Networks inside it that don't belong."""

    def __post_init__(self) -> None:
        self.value()

    def value(self) -> Network:
        """Return the value."""
        return Network(self.cidr, self.excepted)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationEntry:
    """Lets clients in that come from one of the networks *and* proved one of the identities."""

    name: str = ""
    """For the metrics and the log."""
    networks: tuple[NetworkEntry | str, ...] = ()
    """Where they come from; none at all is everywhere."""
    identities: tuple[str, ...] = ()
    """What they proved by mutual TLS: a name, ``*.ns.example`` for every name below, ``*`` for anybody who proved one.
    None at all asks for nothing."""
    tls: bool = False
    """Whether they must come by TLS, with an identity or without."""

    def __post_init__(self) -> None:
        if self.tls and self.identities:
            raise InvalidConfiguration("identities come by TLS only: leave out tls")
        self.value()

    def value(self) -> Authorization:
        """Return the value."""
        networks = [net if isinstance(net, str) else net.value() for net in self.networks]
        return Authorization(networks, self._authentication(), self.name)

    def _authentication(self) -> Authentication:
        if self.identities:
            suffixes = [one for one in self.identities if one.startswith("*.")]
            return TlsAuthenticated([one for one in self.identities if one not in suffixes], suffixes)
        return TlsUnauthenticated() if self.tls else Unauthenticated()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyEntry:
    """Who is let in: whom one of the authorizations admits, and nobody else."""

    authorizations: tuple[AuthorizationEntry, ...] = ()
    """In order; the first that admits a client is the one that is counted."""
    audit: bool = False
    """Whether those who would be refused are let in all the same, counted and logged."""
    loopback: bool = True
    """Whether clients on this very host are always let in, as with Linkerd."""


PolicyOrName: TypeAlias = PolicyEntry | Literal["deny", "all-authenticated", "all-unauthenticated", "audit"]
"""A policy, or one that Linkerd knows by name."""


def server_policy(policy: PolicyOrName, name: str) -> ServerPolicy:
    """Return the policy of the server with that name."""
    if isinstance(policy, str):
        known = default_policy(policy)
        return ServerPolicy(known.authorizations, name, known.audit, known.loopback)
    authorizations = [one.value() for one in policy.authorizations]
    return ServerPolicy(authorizations, name, policy.audit, policy.loopback)
