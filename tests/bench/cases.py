"""What is measured: each case names its proxies, its load and its backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.bench import peers
from tests.bench.envoy import envoy, envoy_layers
from tests.bench.loads import (
    Done,
    h2_varied,
    h2load,
    handshakes,
    routed,
    transfer,
    transfer_tls,
    varied,
    wrk,
    wrk_tls,
)
from tests.bench.peers import Plan

Command = Callable[[Plan], list[str]]


@dataclass(frozen=True)
class Case:
    """One kind of traffic.

    Args:
        title: How the table calls it.
        mode: How the proxies are configured: ``tcp``, ``http1`` or ``http2``.
        backend: The command of what the proxies talk to.
        backend_mode: What that backend speaks; None if it is no HTTP.
        proxies: Each proxy's command.
        load: Puts load on a port; None for a case without (idle memory).
        connections: Whether the case is repeated for several numbers of connections.
        terminate: Whether clients come with mutual TLS; ``load`` then takes the certificates' directory too.
        rate: Requests a second, for a case that measures how long each takes; then ``load`` is None.
    """

    title: str
    mode: str
    backend: Command
    backend_mode: str | None
    proxies: Mapping[str, Command]
    load: Callable[..., Done] | None
    connections: bool = True
    terminate: bool = False
    rate: int = 0


def _transfer(port: int, _connections: int, seconds: float) -> Done:
    return transfer(port, int(seconds * (1 << 30)))


def _h11(plan: Plan) -> list[str]:
    return peers.ours(plan, "--codec", "h11")


def _opaque(plan: Plan) -> list[str]:
    return peers.ours(plan, "--opaque")


_TCP: dict[str, Command] = {
    "ours": peers.ours_stack("tcp_detect"),
    "ours-opaque": _opaque,
    "ours-bare": peers.ours_stack("tcp_bare"),
    "envoy": envoy,
    "haproxy": peers.haproxy,
    "nginx": peers.nginx,
}

_HTTP1: dict[str, Command] = {
    "ours": peers.ours,
    "ours-h11": _h11,
    "ours-bare": peers.ours_stack("http_bare"),
    "envoy": envoy,
    "haproxy": peers.haproxy,
    "nginx": peers.nginx,
    "mitmproxy": peers.mitmproxy,
}

_HTTP2 = {name: _HTTP1[name] for name in ("ours", "ours-bare", "envoy", "haproxy")}

CASES: dict[str, Case] = {
    "tcp": Case("TCP, small messages", "tcp", peers.backend, "http1", _TCP, wrk),
    "bulk": Case(
        "TCP, one big transfer",
        "tcp",
        peers.bulk_backend,
        None,
        {**_TCP, "haproxy-splice": peers.haproxy_splice},
        _transfer,
        connections=False,
    ),
    "http1": Case("HTTP/1.1, small GET", "http1", peers.backend, "http1", _HTTP1, wrk),
    # Equal heads are remembered; this is what a head costs that was never seen before.
    "varied": Case("HTTP/1.1, no two heads alike", "http1", peers.backend, "http1", _HTTP1, varied),
    "http2": Case("HTTP/2, small GET, 10 streams a connection", "http2", peers.backend, "http2", _HTTP2, h2load),
    "h2-varied": Case("HTTP/2, 20,000 paths in turn", "http2", peers.backend, "http2", _HTTP2, h2_varied),
    # Every request passes all that traffic can pass: what the layers cost beside the bare proxy.
    "layers": Case(
        "HTTP/1.1, 100 routes, deadlines, retries, ten balanced endpoints",
        "http1",
        peers.ten_backends,
        "http1",
        {"ours": peers.ours_stack("http_layers"), "ours-bare": _HTTP1["ours-bare"], "envoy": envoy_layers},
        routed,
    ),
    "observed": Case(
        "HTTP/1.1, how closely it is watched",
        "http1",
        peers.backend,
        "http1",
        {f"ours-{variant}": peers.ours_stack(variant) for variant in ("unwatched", "watched", "tapped", "logged")},
        wrk,
    ),
    "mtls": Case(
        "HTTP/1.1 from a mesh client, small GET",
        "http1",
        peers.backend,
        "http1",
        {name: _HTTP1[name] for name in ("ours", "envoy", "haproxy")},
        wrk_tls,
        terminate=True,
    ),
    "mtls-bulk": Case(
        "Mutual TLS, one big transfer",
        "tcp",
        peers.bulk_backend,
        None,
        {**{name: _TCP[name] for name in ("envoy", "haproxy")}, "ours": peers.ours},
        transfer_tls,
        connections=False,
        terminate=True,
    ),
    "handshakes": Case(
        "Mutual TLS, a fresh connection for each request",
        "http1",
        peers.backend,
        "http1",
        {name: _HTTP1[name] for name in ("ours", "envoy", "haproxy")},
        handshakes,
        connections=False,
        terminate=True,
    ),
    "mesh": Case(
        "HTTP/1.1 through two proxies with mutual TLS between them",
        "http1",
        peers.backend,
        "http1",
        {"ours": peers.ours, "envoy": envoy},
        None,
        connections=False,
        rate=500,
    ),
    "idle": Case("Memory", "http1", peers.backend, "http1", _HTTP1, None, connections=False),
}
