"""The routes of a listener's requests, made from a configuration."""

from __future__ import annotations

from collections.abc import Sequence

from linkerd_proxy.core.stack import Layer, Stack
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.mesh.config.filters import FilterEntry, MirrorEntry
from linkerd_proxy.mesh.config.listeners import ListenerEntry
from linkerd_proxy.mesh.config.policies import server_policy
from linkerd_proxy.mesh.config.reaching import Backends
from linkerd_proxy.mesh.config.routes import GrpcRuleEntry, HttpRuleEntry
from linkerd_proxy.policy.authorize import Authorize
from linkerd_proxy.route.route import Route
from linkerd_proxy.route.rules import AnyRoute, GrpcRoute, HttpRoute, Rule

__all__ = ["routed"]


def routed(entry: ListenerEntry, backends: Backends, name: str) -> Stack[Exchange]:
    """Return the stack that sends a listener's requests where its routes say.

    Args:
        entry: The listener.
        backends: Where requests can go.
        name: The listener's, for metrics.
    """
    if not entry.routes and not entry.grpc_routes:
        return backends.exchanges(entry.backend_refs)
    routes: list[AnyRoute] = [
        HttpRoute([_rule(rule, backends, name) for rule in route.rules], route.hostnames) for route in entry.routes
    ]
    routes += [
        GrpcRoute([_rule(rule, backends, name) for rule in route.rules], route.hostnames) for route in entry.grpc_routes
    ]
    if entry.backend_refs:
        routes.append(HttpRoute([Rule((), backends.exchanges(entry.backend_refs))]))
    return Route(routes)


def _rule(rule: HttpRuleEntry | GrpcRuleEntry, backends: Backends, name: str) -> Rule:
    backend = backends.exchanges(rule.backend_refs) if rule.backend_refs else None
    return rule.rule(backend, _layers(rule, backends, name))


def _layers(rule: HttpRuleEntry | GrpcRuleEntry, backends: Backends, name: str) -> Sequence[Layer[Exchange, Exchange]]:
    """Return what a request passes: may it at all, its filters, and how long and how often it is tried."""
    layers: list[Layer[Exchange, Exchange]] = []
    if rule.policy is not None:
        layers.append(Authorize(server_policy(rule.policy, name)))
    if rule.rate_limit is not None:
        layers.append(rule.rate_limit.layer())
    layers += [_filter(one, backends) for one in rule.filters]
    if rule.timeouts is not None:
        layers.append(rule.timeouts.layer())
    if rule.retry is not None:
        layers.append(rule.retry.layer({"listener": name}))
    return layers


def _filter(entry: FilterEntry, backends: Backends) -> Layer[Exchange, Exchange]:
    if isinstance(entry, MirrorEntry):
        return entry.layer(backends.exchange(entry.backend_ref))
    return entry.layer()
