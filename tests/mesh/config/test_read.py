"""No key of a configuration goes unread: each changes the stack that is built."""

import copy
import dataclasses

import pytest

from linkerd_proxy.balance.balance import Balance
from linkerd_proxy.core.shared import Resource
from linkerd_proxy.core.stack import Layer, Stack
from linkerd_proxy.document.convert import document_fields
from linkerd_proxy.mesh.config import backends, balancing, filters, listeners, observing, peers, resilience
from linkerd_proxy.mesh.config.build import build
from linkerd_proxy.mesh.config.profiles import RouteStacks
from linkerd_proxy.mesh.config.ways import Asking, Dialling
from linkerd_proxy.route.profile import WithProfile
from linkerd_proxy.testing import Authority
from tests.mesh.config.serving import document, write_identity


def described(value, depth=0):
    """Return all that a stack is made of, whatever its repr leaves out; what is random left out."""
    if depth > 60 or isinstance(value, Asking | Dialling | RouteStacks):  # these hold what the document said
        return "..."
    if isinstance(value, Stack | Layer | Resource) or dataclasses.is_dataclass(value):
        names = [one.name for one in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        for kind in type(value).__mro__:
            slots = getattr(kind, "__slots__", ())
            names += [slots] if isinstance(slots, str) else list(slots)
        told = {n: described(getattr(value, n), depth + 1) for n in dict.fromkeys(names) if hasattr(value, n)}
        if isinstance(value, Balance | WithProfile):  # what their functions make
            told["made"] = described([stack for _, stack in value.branches()], depth + 1)
        return type(value).__name__, tuple(told.items())
    if isinstance(value, dict) or hasattr(value, "items"):
        return tuple((str(key), described(one, depth + 1)) for key, one in value.items())
    if isinstance(value, list | tuple):
        return tuple(described(one, depth + 1) for one in value)
    if isinstance(value, set | frozenset):
        return tuple(sorted(map(str, value)))
    if isinstance(value, str | int | float | bool | None):
        return value
    text = repr(value)
    return type(value).__name__ if " at 0x" in text else text


BASE = {
    "identity": {"directory": "id"},
    "listeners": {
        "web": {
            "address": "127.0.0.1:1",
            "tls": {},
            "proxy_protocol": {},
            "gateway": {"suffixes": ["a.example"], "peers": {"x.a.example": {"identity": "x.y"}}},
            "rate_limit": {"total": 9, "overrides": [{"rate": 1, "clients": ["a.b"]}]},
            "limit": {},
            "timeouts": {"request": "9s"},
            "policy": {"authorizations": [{}]},
            "routes": [
                {
                    "rules": [
                        {
                            "filters": [
                                {"type": "RequestMirror", "backend_ref": "dst"},
                                {"type": "FailureInjector", "ratio": 0.5, "status": 500},
                            ],
                            "backend_refs": ["app"],
                        }
                    ]
                }
            ],
            "backend_refs": ["app", "dst"],
        }
    },
    "backends": {
        "app": {
            "endpoints": [{"address": ":2"}],
            "tls": {},
            "retry": {"budget": {}, "backoff": {"minimum": "1s", "maximum": "2s"}},
            "hedge": {},
            "timeouts": {"request": "9s"},
            "limit": {},
            "balance": {"pick": {"type": "p2c"}},
            "breaker": {},
        },
        "dst": {"original_dst": True, "peers": {"10.0.0.1:1": {"identity": "x.y"}}},
    },
    "access_log": {},
    "trace": {"endpoint": "http://c.example"},
}

LISTENER, APP = ("listeners", "web"), ("backends", "app")
RULE = (*LISTENER, "routes", 0, "rules", 0)
VALUES = {
    listeners.TlsEntry: (
        (*LISTENER, "tls"),
        {"required": False, "require_identity": True, "server_names": ["*"], "timeout": "3s", "max_handshakes": 7},
    ),
    listeners.ProxyProtocolEntry: (
        (*LISTENER, "proxy_protocol"),
        {"trusted": ["10.0.0.0/8"], "required": False, "timeout": "1s", "max_length": 99},
    ),
    listeners.ListenerEntry: (
        LISTENER,
        {
            "protocol": "http",
            "detect_timeout": "3s",
            "opaque_ports": [1],
            "options": {"keepalive": "1s"},
            "half_open": "3s",
            "limits": {"max_head": 99},
            "labels": {"a": "b"},
            "grpc_routes": [{"rules": [{"backend_refs": ["app"]}]}],
            "tls_routes": [{"hostnames": ["a.example"], "backend_refs": ["app"]}],
            "tcp_routes": [{"destinations": [":1"], "backend_refs": ["app"]}],
        },
    ),
    peers.GatewayEntry: (
        (*LISTENER, "gateway"),
        {"suffixes": ["b.example"], "name": "other.mesh.local", "peers": {}, "connect_timeout": "3s", "local": True},
    ),
    peers.MeshPeerEntry: (("backends", "dst", "peers", "10.0.0.1:1"), {"identity": "y.z", "tagged_port": 1}),
    resilience.RateLimitEntry: (
        (*LISTENER, "rate_limit"),
        {"total": 8, "identity": 1, "address": 2, "overrides": [], "burst": "3s", "max_clients": 4},
    ),
    resilience.RateOverrideEntry: ((*LISTENER, "rate_limit", "overrides", 0), {"rate": 2, "clients": ["c.d"]}),
    resilience.LimitEntry: ((*LISTENER, "limit"), {"in_flight": 1, "queue": 2, "wait": "3s"}),
    resilience.TimeoutsEntry: (
        (*LISTENER, "timeouts"),
        {"request": "1s", "response": "2s", "idle": "3s", "grpc": False, "headers": True},
    ),
    resilience.RetryEntry: (
        (*APP, "retry"),
        {
            "limit": 7,
            "http": "5xx",
            "grpc": "unavailable",
            "methods": ["GET"],
            "timeout": "1s",
            "backoff": {"minimum": "3s", "maximum": "4s"},
            "max_request_bytes": 1,
            "patience": "3s",
            "peek": "1s",
            "headers": True,
            "budget": {"retry_ratio": 0.5},
        },
    ),
    resilience.BudgetEntry: (
        (*APP, "retry", "budget"),
        {"retry_ratio": 0.7, "min_retries_per_second": 1, "ttl": "3s"},
    ),
    resilience.BackoffEntry: ((*APP, "retry", "backoff"), {"minimum": "0.5s", "maximum": "9s", "jitter": 0.1}),
    resilience.HedgeEntry: (
        (*APP, "hedge"),
        {
            "delay": "1s",
            "percentile": 0.9,
            "http": "500",
            "grpc": "unavailable",
            "methods": ["GET"],
            "max_request_bytes": 1,
            "budget": {"ttl": "3s"},
        },
    ),
    resilience.BreakerEntry: (
        (*APP, "breaker"),
        {
            "consecutive": 3,
            "success_rate": 0.5,
            "window": "3s",
            "min_requests": 3,
            "backoff": {"minimum": "3s", "maximum": "4s"},
            "floor": 0.1,
        },
    ),
    backends.BackendEntry: (
        APP,
        {
            "profile": {"routes": [{"condition": {}, "timeout": "1s"}]},
            "protocol": "h2",
            "send_proxy_protocol": "v1",
            "connect_timeout": "3s",
            "source": "127.0.0.1",
            "elsewhere": True,
            "options": {"user_timeout": "3s"},
            "limits": {"max_connections": 3},
            "labels": {"a": "b"},
            "breaker": "off",
        },
    ),
    backends.UpstreamTlsEntry: ((*APP, "tls"), {"host": "a.example", "roots": "ca.pem", "timeout": "3s"}),
    balancing.BalanceEntry: (
        (*APP, "balance"),
        {
            "pick": "ring",
            "queue": 1,
            "failfast": "1s",
            "zone": "a",
            "spill": 2,
            "slow_start": "3s",
            "connect_backoff": {"minimum": "3s", "maximum": "4s"},
        },
    ),
    balancing.P2cEntry: (
        (*APP, "balance", "pick"),
        {"default_rtt": "1s", "decay": "1s", "penalty": "1s", "peak": True},
    ),
    filters.MirrorEntry: (
        (*RULE, "filters", 0),
        {"backend_ref": "app", "ratio": 0.5, "in_flight": 3, "limit": 4, "timeout": "5s"},
    ),
    filters.FailureEntry: (
        (*RULE, "filters", 1),
        {"ratio": 0.1, "status": 503, "grpc_status": "internal", "delay": "1s", "message": "x"},
    ),
    observing.AccessLogEntry: (("access_log",), {"format": "json", "to": "x.log", "queue": 3, "redact": ["a"]}),
    observing.TraceEntry: (
        ("trace",),
        {
            "endpoint": "http://d.example",
            "service": "shop",
            "resource": {"a": "b"},
            "headers": {"a": "b"},
            "batch": 3,
            "interval": "3s",
            "timeout": "3s",
            "queue": 3,
            "start": 0.5,
            "kind": "client",
            "attributes": {"a": "b"},
        },
    ),
}
ELSEWHERE = {
    listeners.ListenerEntry: {
        "address", "original_dst", "tls", "proxy_protocol", "gateway", "policy", "rate_limit", "limit", "timeouts",
        "routes", "backend_refs",
    },
    listeners.TlsEntry: {"certificate", "key"},
    backends.BackendEntry: {
        "endpoints", "dns", "file", "original_dst", "first_available", "peers", "tls", "balance", "timeouts", "retry",
        "hedge", "limit",
    },
    observing.TraceEntry: {"roots"},  # only where the endpoint is https
}  # fmt: skip
"""What is needed, or has tests of its own."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    directory = tmp_path_factory.mktemp("proxy")
    write_identity(directory / "id", Authority(), "web.mesh.local")
    return directory


@pytest.mark.parametrize("entry", VALUES, ids=lambda one: one.__name__)
def test_every_key_changes_what_is_built(entry, base) -> None:
    where, values = VALUES[entry]
    assert values.keys() | ELSEWHERE.get(entry, set()) == document_fields(entry).keys()
    plain = described(build(document(BASE), base=base))
    assert plain == described(build(document(BASE), base=base))
    for key, value in values.items():
        changed = copy.deepcopy(BASE)
        inside = changed
        for step in where:
            inside = inside[step]
        inside[key] = value
        if "tls_routes" in inside:
            inside["tls"] = {"required": False}
        if key == "profile":
            del inside["retry"]
        if key == "protocol" and where == LISTENER:
            inside["gateway"] = BASE["listeners"]["web"]["gateway"]
        assert described(build(document(changed), base=base)) != plain, key
