"""Stacks that the command has no option for: ``python -m tests.bench.stacks VARIANT PORT BACKEND``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence

import trio

from linkerd_proxy.address import Address
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import serve
from linkerd_proxy.core.stack import Layer, Stack
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.io.listen import SocketListener, open_listeners
from linkerd_proxy.mesh.settled import settle
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.forward import Forward
from tests.bench.peers import SERVICES, TEN


def tcp_bare(to: Address) -> Stack[Connection]:
    """Nothing but the relay."""
    return Forward() | Connect(to)


def tcp_detect(to: Address) -> Stack[Connection]:
    """Detection, whatever it finds is copied: how opaque traffic costs on a port that detects."""
    from linkerd_proxy.detect import Detect

    tcp = tcp_bare(to)
    return Detect(http=tcp, otherwise=tcp)


def http_bare(to: Address) -> Stack[Connection]:
    """HTTP without detection, rescue or metrics of its own."""
    from linkerd_proxy.http.client import Client
    from linkerd_proxy.http.server import Http

    return Http() | Client() | Connect(to)


def http_layers(to: Address) -> Stack[Connection]:
    """All that a service's traffic can go through: 100 routes with deadlines and retries, ten endpoints."""
    from linkerd_proxy.balance.balance import Balance
    from linkerd_proxy.discover.static import Static
    from linkerd_proxy.http.client import Client
    from linkerd_proxy.http.rescue import Rescue
    from linkerd_proxy.http.server import Http
    from linkerd_proxy.metrics.layer import Metrics
    from linkerd_proxy.metrics.tap import Tap
    from linkerd_proxy.retry.retry import Retry
    from linkerd_proxy.retry.timeout import Timeout
    from linkerd_proxy.route.route import Route

    endpoints = Static(*(Address(host, to.port) for host in TEN))
    web = Timeout(5) | Retry() | Balance(endpoints, lambda one: Client() | Connect(one.address))
    route = Route({**{f"/service/{n}": web for n in range(SERVICES)}, "/": web})
    return Http() | Metrics() | Tap() | Rescue() | route


def _watched(to: Address, *layers: Layer[Exchange, Exchange]) -> Stack[Connection]:
    from linkerd_proxy.detect import Detect
    from linkerd_proxy.http.client import Client
    from linkerd_proxy.http.rescue import Rescue
    from linkerd_proxy.http.server import Http
    from linkerd_proxy.metrics.layer import Metrics

    asked: Stack[Exchange] = Rescue() | Client() | Connect(to)
    for layer in reversed(layers):
        asked = layer | asked
    http: Stack[Connection] = Http() | asked
    if layers:
        http = Metrics[Connection]() | http
    return Detect(http=http, otherwise=Forward() | Connect(to))


def unwatched(to: Address) -> Stack[Connection]:
    """What the command serves, without whatever watches."""
    return _watched(to)


def watched(to: Address) -> Stack[Connection]:
    """With metrics, and where a tap may be opened."""
    from linkerd_proxy.metrics.layer import Metrics
    from linkerd_proxy.metrics.tap import Tap

    return _watched(to, Metrics(), Tap())


def logged(to: Address) -> Stack[Connection]:
    """With an access log, too: to nowhere, for what is measured is the proxy and not the disk."""
    from linkerd_proxy.metrics.accesslog import AccessLog
    from linkerd_proxy.metrics.layer import Metrics
    from linkerd_proxy.metrics.tap import Tap

    return _watched(to, AccessLog("json", to="/dev/null"), Metrics(), Tap())


VARIANTS: dict[str, Callable[[Address], Stack[Connection]]] = {
    "tcp_bare": tcp_bare,
    "tcp_detect": tcp_detect,
    "http_bare": http_bare,
    "http_layers": http_layers,
    "unwatched": unwatched,
    "watched": watched,
    "tapped": watched,
    "logged": logged,
}


async def main(variant: str, port: int, backend: int) -> None:
    """Serve one stack until SIGTERM."""
    drain = Drain(grace=1)
    stack = VARIANTS[variant](Address("127.0.0.1", backend))
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            listeners = await open_listeners(Address("127.0.0.1", port))
            settle()
            nursery.start_soon(_serve, stack, listeners, drain, nursery)
            if variant == "tapped":
                nursery.start_soon(_look)
            async for _ in signals:
                drain.start()
                break


async def _serve(
    stack: Stack[Connection], listeners: Sequence[SocketListener], drain: Drain, nursery: trio.Nursery
) -> None:
    await serve(stack, listeners, drain=drain)
    nursery.cancel_scope.cancel()


async def _look() -> None:
    """Read an open tap that shows everything, as the admin endpoint does for ``linkerd-proxy tap``."""
    from linkerd_proxy.mesh.tap_stream import Lines
    from linkerd_proxy.metrics.tap_match import Match
    from linkerd_proxy.metrics.taps import current_taps

    with current_taps().open(Match(), limit=1 << 60) as tap:
        async for _ in Lines(tap):
            pass


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
