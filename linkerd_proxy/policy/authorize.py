"""The layer that lets in whom the policy allows, and ends what it no longer allows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import trio
from typing_extensions import TypeVar

from linkerd_proxy.core.contain import FailureLog
from linkerd_proxy.core.shared import Resource, shared
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.errors import Denied
from linkerd_proxy.metrics.registry import Counter, current_registry
from linkerd_proxy.policy.server_policy import Authorization, LivePolicy, ServerPolicy

__all__ = ["Authorize"]

W = TypeVar("W", bound=Connection | Exchange, default=Exchange)

_Verdict: TypeAlias = Literal["http allow", "http deny", "tcp allow", "tcp deny", "tcp terminate"]

_REMEMBERED = 4096  # clients whose verdict is kept: own figure, some 600 KB


@dataclass(frozen=True, slots=True, repr=False)
class Authorize(Layer[W, W]):
    """Lets work in if the policy allows its client to do it.

    Among layers of HTTP every request is judged by the policy as it is when the request comes; a tunnel (CONNECT,
    WebSocket) is ended when its right is revoked. Among layers of TCP, ``Authorize[Connection](policy)``, a connection
    is judged when it comes *and* whenever the policy changes: a live one ends when its right is revoked.

    ``inbound_http_authz_allow_total``, ``inbound_http_authz_deny_total``, ``inbound_tcp_authz_allow_total``,
    ``inbound_tcp_authz_deny_total`` and ``inbound_tcp_authz_terminate_total`` count verdicts by the names of server and
    authorization, and by how the client came (``tls``: ``mutual``, ``tls`` or ``none``); no label is a client's choice.

    Args:
        policy: A :class:`~linkerd_proxy.policy.server_policy.ServerPolicy`, or where one comes from that changes.

    Raises:
        Denied: if the client may not; ``Rescue`` answers 403.
    """

    policy: Resource[LivePolicy]

    @asynccontextmanager
    async def open(self, inner: Service[W]) -> AsyncIterator[Service[W]]:
        """Open the policy, shared with whoever names it too, and yield the live service."""
        async with shared(self.policy) as live:
            judge = _Judge(live)

            async def service(work: W) -> None:
                if isinstance(work, Exchange):
                    judge.require(work.connection, "http")
                    if not work.request.wants_tunnel:
                        await inner(work)
                        return
                    connection = work.connection
                else:
                    connection = work
                    judge.require(connection, "tcp")
                # No task waits for changes: the watcher is a plain callback, so ten thousand connections cost little.
                with trio.CancelScope() as scope, live.watching(lambda: judge.revoke(connection, scope)):
                    await inner(work)
                if scope.cancelled_caught:
                    raise judge.denied(connection, "is no longer allowed")

            yield service


class _Judge:
    """Applies the policy of one opened layer: remembers verdicts as long as the policy stays, and counts them."""

    __slots__ = ("_counters", "_live", "_policy", "_verdicts")

    def __init__(self, live: LivePolicy) -> None:
        self._live = live
        self._policy: ServerPolicy = live.policy
        self._verdicts: dict[tuple[str, str | None, bool], Authorization | None] = {}
        self._counters: dict[tuple[_Verdict, str, str, str], Counter] = {}

    def verdict(self, connection: Connection) -> Authorization | None:
        """Return what lets a client in, or None."""
        policy = self._live.policy
        if policy is not self._policy or len(self._verdicts) >= _REMEMBERED:
            self._policy = policy
            self._verdicts.clear()
        tls = connection.tls
        key = (str(getattr(connection.peer, "host", "")), tls.peer_identity if tls else None, tls is not None)
        try:
            return self._verdicts[key]
        except KeyError:
            found = self._verdicts[key] = policy.authorize(connection)
            return found

    def require(self, connection: Connection, kind: Literal["http", "tcp"]) -> None:
        """Count the verdict on new work, and raise Denied if it is against it."""
        found = self.verdict(connection)
        if found is None:
            self._count("http deny" if kind == "http" else "tcp deny", "", connection)
            raise self.denied(connection, "is not allowed")
        self._count("http allow" if kind == "http" else "tcp allow", found.name, connection)
        if self._policy.audit and found.name == "audit":
            FailureLog.of_this_run().write(self.denied(connection, "is let in by the audit only"), "AUDIT", connection)

    def revoke(self, connection: Connection, scope: trio.CancelScope) -> None:
        """End a live connection if the policy, which has changed, does not allow it any more."""
        if not scope.cancel_called and self.verdict(connection) is None:
            self._count("tcp terminate", "", connection)
            scope.cancel()

    def denied(self, connection: Connection, what: str) -> Denied:
        """Return the error that tells who may not."""
        identity = connection.tls.peer_identity if connection.tls else None
        server = f" to server {self._policy.name!r}" if self._policy.name else ""
        return Denied(
            f"client {identity or 'without an identity'} at {connection.peer} {what}{server}", layer="Authorize"
        )

    def _count(self, verdict: _Verdict, authorization: str, connection: Connection) -> None:
        tls = "none" if connection.tls is None else "mutual" if connection.tls.peer_identity else "tls"
        key = (verdict, self._policy.name, authorization, tls)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = _counter(*key)
        counter.value += 1


def _counter(verdict: _Verdict, srv: str, authz: str, tls: str) -> Counter:
    counter = current_registry().counter
    match verdict:
        case "http allow":
            return counter(
                "inbound_http_authz_allow_total",
                "Requests that the policy allowed",
                srv_name=srv,
                authz_name=authz,
                tls=tls,
            )
        case "http deny":
            return counter(
                "inbound_http_authz_deny_total",
                "Requests that the policy refused",
                srv_name=srv,
                authz_name=authz,
                tls=tls,
            )
        case "tcp allow":
            return counter(
                "inbound_tcp_authz_allow_total",
                "Connections that the policy allowed",
                srv_name=srv,
                authz_name=authz,
                tls=tls,
            )
        case "tcp deny":
            return counter(
                "inbound_tcp_authz_deny_total",
                "Connections that the policy refused",
                srv_name=srv,
                authz_name=authz,
                tls=tls,
            )
        case "tcp terminate":
            return counter(
                "inbound_tcp_authz_terminate_total",
                "Connections and tunnels that ended because the policy changed",
                srv_name=srv,
                authz_name=authz,
                tls=tls,
            )
