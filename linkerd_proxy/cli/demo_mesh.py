"""The mesh of the demonstration: the application web, and three replicas of api, each with a sidecar of its own."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from linkerd_proxy.address import Address, AnyAddress
from linkerd_proxy.balance.balance import Balance
from linkerd_proxy.cli.demo_apps import REPLICAS, Greeter, api_app
from linkerd_proxy.core.endpoint import Endpoint
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection, Dial, Exchange
from linkerd_proxy.detect.detect import Detect
from linkerd_proxy.discover.static import Static
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.mesh.inbound import inbound
from linkerd_proxy.mesh.peer import asking, dialling
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.retry.retry import Retry
from linkerd_proxy.tcp.forward import Forward
from linkerd_proxy.tls.authority import Authority
from linkerd_proxy.tls.identity import Credentials, Given, Identity

__all__ = ["API", "TRUST_DOMAIN", "WEB", "Mesh", "start_mesh", "web_sidecar"]

TRUST_DOMAIN = "mesh.local"
WEB, API = f"web.{TRUST_DOMAIN}", f"api.{TRUST_DOMAIN}"

Start = Callable[[Stack[Connection]], Awaitable[AnyAddress]]
"""Serves a stack on a port that the system chooses, and returns where."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """What was started.

    Args:
        authority: Who certified both identities; known to nobody else.
        web: The identity of the application that asks.
        api: The identity of the application that answers.
        address: Where web's sidecar takes the connections that web makes.
        sidecar: That sidecar.
    """

    authority: Authority
    web: Credentials
    api: Credentials
    address: AnyAddress
    sidecar: Stack[Connection]


async def start_mesh(start: Start, rng: random.Random) -> Mesh:
    """Start the replicas of api with their sidecars, then web's sidecar."""
    authority = Authority.create(TRUST_DOMAIN)
    web, api = authority.issue(WEB), authority.issue(API)
    requests: list[Endpoint] = []
    streams: list[Endpoint] = []
    for replica in REPLICAS:
        proxy = inbound(Given(api), require_identity=True, labels={"direction": "inbound", "pod": replica.name})
        port = _port(await start(proxy))
        for endpoints, app in ((requests, api_app(replica, rng)), (streams, Greeter())):
            # The sidecar is told by a transport header which of the application's ports is meant.
            endpoints.append(Endpoint(await start(app), identity=API, tagged_port=port))
    sidecar = web_sidecar(Given(web), requests, streams)
    return Mesh(authority, web, api, await start(sidecar), sidecar)


def web_sidecar(identity: Identity, requests: Sequence[Endpoint], streams: Sequence[Endpoint]) -> Stack[Connection]:
    """Return the sidecar of web: one port for every protocol, balanced over the replicas of api, with mutual TLS."""
    labels = {"direction": "outbound"}
    ask = Balance[Exchange](Static(*requests), lambda endpoint: asking(endpoint, identity), name="api")
    dial = Balance[Dial](Static(*streams), lambda endpoint: dialling(endpoint, identity), name="api-tcp")
    counted = Metrics[Connection](labels)
    return Detect(
        http=counted | Http() | Metrics(labels) | Rescue() | Retry(grpc="unavailable") | ask,
        otherwise=counted | Forward() | dial,
    )


def _port(address: AnyAddress) -> int:
    assert isinstance(address, Address)
    return address.port
