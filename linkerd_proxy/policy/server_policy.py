"""Policies as values: who may use a server. And their live form, which can change while connections are open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from linkerd_proxy.address import UnixAddress
from linkerd_proxy.core.shared import Resource
from linkerd_proxy.core.work import Connection
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.policy.clients import (
    Authentication,
    Network,
    TlsAuthenticated,
    Unauthenticated,
    ip_of,
)

__all__ = ["Authorization", "DefaultPolicy", "LivePolicy", "ServerPolicy", "default_policy"]


_ANYBODY = Unauthenticated()


@dataclass(frozen=True, slots=True)
class Authorization:
    """Lets clients in that come from one of some networks *and* proved what is asked for.

    Args:
        networks: Where they come from, as texts or with exceptions; none at all is everywhere.
        authentication: What they have proved.
        name: For the metrics and the log.

    Raises:
        InvalidConfiguration: for a text that is no network.
    """

    networks: Sequence[str | Network] = ()
    authentication: Authentication = _ANYBODY
    name: str = ""

    def __post_init__(self) -> None:
        networks = (Network(net) if isinstance(net, str) else net for net in self.networks)
        object.__setattr__(self, "networks", tuple(networks))

    def admits(self, connection: Connection) -> bool:
        """Whether a client is let in by this."""
        if not self.authentication.admits(connection):
            return False
        if not self.networks:
            return True
        address = ip_of(connection)
        return address is not None and any(address in net for net in self.networks if isinstance(net, Network))


_LOOPBACK = Authorization(name="loopback")
_AUDIT = Authorization(name="audit")


@dataclass(frozen=True, slots=True)
class ServerPolicy(Resource["LivePolicy"]):
    """Who may use a server: whom one of its authorizations admits, and nobody else.

    Args:
        authorizations: In order; the first that admits a client is the one that is counted.
        name: The server's name, for the metrics and the log.
        audit: Whether those who would be refused are let in all the same, counted under ``audit`` and logged.
        loopback: Whether clients on this very host (loopback addresses, Unix sockets) are always let in, as in Linkerd,
            where they are the pod's own. Behind another proxy on the same host say False.
    """

    authorizations: Sequence[Authorization] = ()
    name: str = ""
    audit: bool = False
    loopback: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "authorizations", tuple(self.authorizations))

    def authorize(self, connection: Connection) -> Authorization | None:
        """Return what lets a client in, or None if nothing does."""
        if self.loopback:
            address = ip_of(connection)
            if isinstance(connection.peer, UnixAddress) or (address is not None and address.is_loopback):
                return _LOOPBACK
        found = next((one for one in self.authorizations if one.admits(connection)), None)
        return _AUDIT if found is None and self.audit else found

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LivePolicy]:
        """Yield it in its live form; it never changes."""
        yield LivePolicy(self)


class LivePolicy(Resource["LivePolicy"]):
    """The policy that holds now. Whoever learns of another one publishes it.

    It is a resource itself, so that a program that changes its policy by hand says ``live = LivePolicy(policy)``,
    ``Authorize(live)``, and later ``live.publish(another)``.
    """

    __slots__ = ("_watchers", "policy")

    def __init__(self, policy: ServerPolicy) -> None:
        self.policy: ServerPolicy = policy
        self._watchers: dict[object, Callable[[], None]] = {}

    def publish(self, policy: ServerPolicy) -> None:
        """Replace the policy: requests and connections from now on are judged by it, open connections at once."""
        self.policy = policy
        for watcher in list(self._watchers.values()):
            watcher()

    @contextmanager
    def watching(self, watcher: Callable[[], None]) -> Iterator[None]:
        """Call ``watcher`` inside the block whenever the policy changes. It must neither block nor raise."""
        key = object()
        self._watchers[key] = watcher
        try:
            yield
        finally:
            del self._watchers[key]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LivePolicy]:
        """Yield it."""
        yield self

    def __repr__(self) -> str:
        return f"LivePolicy({self.policy!r})"


DefaultPolicy: TypeAlias = Literal[
    "deny", "all-authenticated", "all-unauthenticated", "cluster-authenticated", "cluster-unauthenticated", "audit"
]


def default_policy(name: DefaultPolicy, cluster_networks: Sequence[str] = ()) -> ServerPolicy:
    """Return the policy that Linkerd knows by a name (``LINKERD2_PROXY_INBOUND_DEFAULT_POLICY``).

    Args:
        name: ``deny`` refuses everybody; ``all-`` admits clients from everywhere and ``cluster-`` from the cluster;
            ``-authenticated`` those that proved an identity and ``-unauthenticated`` any; ``audit`` admits everybody,
            and logs it. Clients on loopback are always let in.
        cluster_networks: The networks of the cluster, for the policies of that name.

    Raises:
        InvalidConfiguration: for another name, or if cluster networks are needed and none are given.
    """
    if name not in get_args(DefaultPolicy):
        known = ", ".join(get_args(DefaultPolicy))
        raise InvalidConfiguration(f"{name!r} is no default policy: write one of {known}")
    if name in {"deny", "audit"}:
        return ServerPolicy(name="default", audit=name == "audit")
    networks: Sequence[str] = ()
    if name.startswith("cluster-"):
        if not cluster_networks:
            raise InvalidConfiguration(f"policy {name!r} needs the networks of the cluster: give cluster_networks")
        networks = cluster_networks
    anybody = name.endswith("-unauthenticated")
    authentication = Unauthenticated() if anybody else TlsAuthenticated(identities=("*",))
    return ServerPolicy([Authorization(networks, authentication, name)], name="default")
