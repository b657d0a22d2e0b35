"""A Trio-native micro-proxy, as layers that you compose.

Every name a user needs is here; each is imported from its module when it is first asked for, so that ``import
linkerd_proxy`` costs next to nothing::

    from linkerd_proxy import Client, Connect, Detect, Forward, Http, Rescue, open_listeners, serve
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from linkerd_proxy._version import __version__

if TYPE_CHECKING:  # for type checkers and editors, which do not run __getattr__
    from linkerd_proxy.address import Address as Address
    from linkerd_proxy.address import UnixAddress as UnixAddress
    from linkerd_proxy.address import parse_address as parse_address
    from linkerd_proxy.balance.balance import Balance as Balance
    from linkerd_proxy.balance.breaker import Breaker as Breaker
    from linkerd_proxy.balance.picks import LeastRequest as LeastRequest
    from linkerd_proxy.balance.picks import P2c as P2c
    from linkerd_proxy.balance.picks import RoundRobin as RoundRobin
    from linkerd_proxy.balance.ring import Header as Header
    from linkerd_proxy.balance.ring import Ring as Ring
    from linkerd_proxy.balance.towards import Towards as Towards
    from linkerd_proxy.core.backoff import Backoff as Backoff
    from linkerd_proxy.core.drain import Drain as Drain
    from linkerd_proxy.core.endpoint import Endpoint as Endpoint
    from linkerd_proxy.core.endpoint import Resolution as Resolution
    from linkerd_proxy.core.endpoint import Resolve as Resolve
    from linkerd_proxy.core.message import Body as Body
    from linkerd_proxy.core.message import Request as Request
    from linkerd_proxy.core.message import Response as Response
    from linkerd_proxy.core.message import Streamed as Streamed
    from linkerd_proxy.core.message import Whole as Whole
    from linkerd_proxy.core.serve import Listener as Listener
    from linkerd_proxy.core.serve import serve as serve
    from linkerd_proxy.core.stack import Layer as Layer
    from linkerd_proxy.core.stack import Service as Service
    from linkerd_proxy.core.stack import Stack as Stack
    from linkerd_proxy.core.stack import opened as opened
    from linkerd_proxy.core.work import Connection as Connection
    from linkerd_proxy.core.work import Dial as Dial
    from linkerd_proxy.core.work import Exchange as Exchange
    from linkerd_proxy.core.work import Target as Target
    from linkerd_proxy.core.work import Tls as Tls
    from linkerd_proxy.detect.detect import Detect as Detect
    from linkerd_proxy.discover.dns import Dns as Dns
    from linkerd_proxy.discover.file import EndpointsFile as EndpointsFile
    from linkerd_proxy.discover.publish import Published as Published
    from linkerd_proxy.discover.static import Static as Static
    from linkerd_proxy.errors import BadGateway as BadGateway
    from linkerd_proxy.errors import BadRequest as BadRequest
    from linkerd_proxy.errors import ConnectFailed as ConnectFailed
    from linkerd_proxy.errors import ConnectTimeout as ConnectTimeout
    from linkerd_proxy.errors import Denied as Denied
    from linkerd_proxy.errors import FailFast as FailFast
    from linkerd_proxy.errors import InvalidConfiguration as InvalidConfiguration
    from linkerd_proxy.errors import NoBackend as NoBackend
    from linkerd_proxy.errors import NoRoute as NoRoute
    from linkerd_proxy.errors import Overloaded as Overloaded
    from linkerd_proxy.errors import ProxyError as ProxyError
    from linkerd_proxy.errors import RateLimited as RateLimited
    from linkerd_proxy.errors import ResponseTimeout as ResponseTimeout
    from linkerd_proxy.errors import UpstreamClosed as UpstreamClosed
    from linkerd_proxy.errors import UpstreamReset as UpstreamReset
    from linkerd_proxy.headers import Headers as Headers
    from linkerd_proxy.http.client import Client as Client
    from linkerd_proxy.http.handler import handler as handler
    from linkerd_proxy.http.limits import Limits as Limits
    from linkerd_proxy.http.mesh_headers import InboundHeaders as InboundHeaders
    from linkerd_proxy.http.mesh_headers import OutboundHeaders as OutboundHeaders
    from linkerd_proxy.http.rescue import Rescue as Rescue
    from linkerd_proxy.http.server import Http as Http
    from linkerd_proxy.http.upgrade import BETWEEN_PROXIES as BETWEEN_PROXIES
    from linkerd_proxy.http.upgrade import Downgrade as Downgrade
    from linkerd_proxy.http.upgrade import Upgrade as Upgrade
    from linkerd_proxy.io.listen import open_listeners as open_listeners
    from linkerd_proxy.mesh.admin import admin as admin
    from linkerd_proxy.mesh.config.configuration import Configured as Configured
    from linkerd_proxy.mesh.gateway import gateway as gateway
    from linkerd_proxy.mesh.identities import find_identity as find_identity
    from linkerd_proxy.mesh.inbound import inbound as inbound
    from linkerd_proxy.mesh.open_telemetry import otlp_from_environment as otlp_from_environment
    from linkerd_proxy.mesh.open_telemetry import otlp_metrics_from_environment as otlp_metrics_from_environment
    from linkerd_proxy.mesh.outbound import outbound as outbound
    from linkerd_proxy.mesh.peer import MeshPeer as MeshPeer
    from linkerd_proxy.mesh.peer import asking as asking
    from linkerd_proxy.mesh.peer import dialling as dialling
    from linkerd_proxy.mesh.reverse import reverse_proxy as reverse_proxy
    from linkerd_proxy.mesh.sidecar import Sidecar as Sidecar
    from linkerd_proxy.mesh.spiffe import spiffe as spiffe
    from linkerd_proxy.mesh.swap import Swap as Swap
    from linkerd_proxy.mesh.tap_server import tap_server as tap_server
    from linkerd_proxy.mesh.workers import Workers as Workers
    from linkerd_proxy.mesh.workers import run_workers as run_workers
    from linkerd_proxy.metrics.accesslog import AccessLog as AccessLog
    from linkerd_proxy.metrics.client_bridge import PrometheusClientBridge as PrometheusClientBridge
    from linkerd_proxy.metrics.layer import Metrics as Metrics
    from linkerd_proxy.metrics.metric_export import OtlpMetrics as OtlpMetrics
    from linkerd_proxy.metrics.registry import current_registry as current_registry
    from linkerd_proxy.metrics.span_export import Otlp as Otlp
    from linkerd_proxy.metrics.tap import Tap as Tap
    from linkerd_proxy.metrics.tracing import Trace as Trace
    from linkerd_proxy.policy.admit import Limit as Limit
    from linkerd_proxy.policy.authorize import Authorize as Authorize
    from linkerd_proxy.policy.clients import Network as Network
    from linkerd_proxy.policy.clients import TlsAuthenticated as TlsAuthenticated
    from linkerd_proxy.policy.clients import TlsUnauthenticated as TlsUnauthenticated
    from linkerd_proxy.policy.clients import Unauthenticated as Unauthenticated
    from linkerd_proxy.policy.ratelimit import RateLimit as RateLimit
    from linkerd_proxy.policy.ratelimit import RateOverride as RateOverride
    from linkerd_proxy.policy.server_policy import Authorization as Authorization
    from linkerd_proxy.policy.server_policy import LivePolicy as LivePolicy
    from linkerd_proxy.policy.server_policy import ServerPolicy as ServerPolicy
    from linkerd_proxy.policy.server_policy import default_policy as default_policy
    from linkerd_proxy.retry.budget import Budget as Budget
    from linkerd_proxy.retry.hedge import Hedge as Hedge
    from linkerd_proxy.retry.retry import Retry as Retry
    from linkerd_proxy.retry.timeout import Timeout as Timeout
    from linkerd_proxy.retry.timeouts import Timeouts as Timeouts
    from linkerd_proxy.route.filters import RequestHeaderModifier as RequestHeaderModifier
    from linkerd_proxy.route.filters import ResponseHeaderModifier as ResponseHeaderModifier
    from linkerd_proxy.route.inject import Inject as Inject
    from linkerd_proxy.route.match import Exact as Exact
    from linkerd_proxy.route.match import GrpcMatch as GrpcMatch
    from linkerd_proxy.route.match import Match as Match
    from linkerd_proxy.route.match import Prefix as Prefix
    from linkerd_proxy.route.match import Regex as Regex
    from linkerd_proxy.route.mirror import Mirror as Mirror
    from linkerd_proxy.route.opaque import OpaqueRoute as OpaqueRoute
    from linkerd_proxy.route.redirect import Redirect as Redirect
    from linkerd_proxy.route.redirect import ReplacePrefix as ReplacePrefix
    from linkerd_proxy.route.redirect import Rewrite as Rewrite
    from linkerd_proxy.route.route import Route as Route
    from linkerd_proxy.route.rules import GrpcRoute as GrpcRoute
    from linkerd_proxy.route.rules import HttpRoute as HttpRoute
    from linkerd_proxy.route.rules import Rule as Rule
    from linkerd_proxy.route.split import Backend as Backend
    from linkerd_proxy.route.split import FirstAvailable as FirstAvailable
    from linkerd_proxy.route.split import Split as Split
    from linkerd_proxy.route.tls import TlsRoute as TlsRoute
    from linkerd_proxy.tcp.aim import Aim as Aim
    from linkerd_proxy.tcp.connect import Connect as Connect
    from linkerd_proxy.tcp.destinations import Destinations as Destinations
    from linkerd_proxy.tcp.forward import Forward as Forward
    from linkerd_proxy.tcp.proxy_protocol import ProxyProtocol as ProxyProtocol
    from linkerd_proxy.tcp.proxy_protocol import SendProxyProtocol as SendProxyProtocol
    from linkerd_proxy.tcp.transport_header import SendTransportHeader as SendTransportHeader
    from linkerd_proxy.tcp.transport_header import Tagged as Tagged
    from linkerd_proxy.tcp.transport_header import TransportHeader as TransportHeader
    from linkerd_proxy.tls.authority import Authority as Authority
    from linkerd_proxy.tls.certify import Certify as Certify
    from linkerd_proxy.tls.files import Files as Files
    from linkerd_proxy.tls.identity import Credentials as Credentials
    from linkerd_proxy.tls.identity import Given as Given
    from linkerd_proxy.tls.identity import Identity as Identity
    from linkerd_proxy.tls.issued import Issued as Issued
    from linkerd_proxy.tls.meshed import Meshed as Meshed
    from linkerd_proxy.tls.originate import Originate as Originate
    from linkerd_proxy.tls.terminate import Terminate as Terminate

_HOMES = {
    "AccessLog": "metrics.accesslog",
    "Address": "address",
    "Aim": "tcp.aim",
    "Authority": "tls.authority",
    "Authorization": "policy.server_policy",
    "Authorize": "policy.authorize",
    "BETWEEN_PROXIES": "http.upgrade",
    "Backend": "route.split",
    "Backoff": "core.backoff",
    "BadGateway": "errors",
    "BadRequest": "errors",
    "Balance": "balance.balance",
    "Body": "core.message",
    "Breaker": "balance.breaker",
    "Budget": "retry.budget",
    "Certify": "tls.certify",
    "Client": "http.client",
    "Configured": "mesh.config.configuration",
    "Connect": "tcp.connect",
    "ConnectFailed": "errors",
    "ConnectTimeout": "errors",
    "Connection": "core.work",
    "Credentials": "tls.identity",
    "Denied": "errors",
    "Destinations": "tcp.destinations",
    "Detect": "detect.detect",
    "Dial": "core.work",
    "Dns": "discover.dns",
    "Downgrade": "http.upgrade",
    "Drain": "core.drain",
    "Endpoint": "core.endpoint",
    "EndpointsFile": "discover.file",
    "Exact": "route.match",
    "Exchange": "core.work",
    "FailFast": "errors",
    "Files": "tls.files",
    "FirstAvailable": "route.split",
    "Forward": "tcp.forward",
    "Given": "tls.identity",
    "GrpcMatch": "route.match",
    "GrpcRoute": "route.rules",
    "Header": "balance.ring",
    "Headers": "headers",
    "Hedge": "retry.hedge",
    "Http": "http.server",
    "HttpRoute": "route.rules",
    "Identity": "tls.identity",
    "InboundHeaders": "http.mesh_headers",
    "Inject": "route.inject",
    "InvalidConfiguration": "errors",
    "Issued": "tls.issued",
    "Layer": "core.stack",
    "LeastRequest": "balance.picks",
    "Limit": "policy.admit",
    "Limits": "http.limits",
    "Listener": "core.serve",
    "LivePolicy": "policy.server_policy",
    "Match": "route.match",
    "MeshPeer": "mesh.peer",
    "Meshed": "tls.meshed",
    "Metrics": "metrics.layer",
    "Mirror": "route.mirror",
    "Network": "policy.clients",
    "NoBackend": "errors",
    "NoRoute": "errors",
    "OpaqueRoute": "route.opaque",
    "Originate": "tls.originate",
    "Otlp": "metrics.span_export",
    "OtlpMetrics": "metrics.metric_export",
    "OutboundHeaders": "http.mesh_headers",
    "Overloaded": "errors",
    "P2c": "balance.picks",
    "Prefix": "route.match",
    "PrometheusClientBridge": "metrics.client_bridge",
    "ProxyError": "errors",
    "ProxyProtocol": "tcp.proxy_protocol",
    "Published": "discover.publish",
    "RateLimit": "policy.ratelimit",
    "RateLimited": "errors",
    "RateOverride": "policy.ratelimit",
    "Redirect": "route.redirect",
    "Regex": "route.match",
    "ReplacePrefix": "route.redirect",
    "Request": "core.message",
    "RequestHeaderModifier": "route.filters",
    "Rescue": "http.rescue",
    "Resolution": "core.endpoint",
    "Resolve": "core.endpoint",
    "Response": "core.message",
    "ResponseHeaderModifier": "route.filters",
    "ResponseTimeout": "errors",
    "Retry": "retry.retry",
    "Rewrite": "route.redirect",
    "Ring": "balance.ring",
    "RoundRobin": "balance.picks",
    "Route": "route.route",
    "Rule": "route.rules",
    "SendProxyProtocol": "tcp.proxy_protocol",
    "SendTransportHeader": "tcp.transport_header",
    "ServerPolicy": "policy.server_policy",
    "Service": "core.stack",
    "Sidecar": "mesh.sidecar",
    "Split": "route.split",
    "Stack": "core.stack",
    "Static": "discover.static",
    "Streamed": "core.message",
    "Swap": "mesh.swap",
    "Tagged": "tcp.transport_header",
    "Tap": "metrics.tap",
    "Target": "core.work",
    "Terminate": "tls.terminate",
    "Timeout": "retry.timeout",
    "Timeouts": "retry.timeouts",
    "Tls": "core.work",
    "TlsAuthenticated": "policy.clients",
    "TlsRoute": "route.tls",
    "TlsUnauthenticated": "policy.clients",
    "Towards": "balance.towards",
    "Trace": "metrics.tracing",
    "TransportHeader": "tcp.transport_header",
    "Unauthenticated": "policy.clients",
    "UnixAddress": "address",
    "Upgrade": "http.upgrade",
    "UpstreamClosed": "errors",
    "UpstreamReset": "errors",
    "Whole": "core.message",
    "Workers": "mesh.workers",
    "admin": "mesh.admin",
    "asking": "mesh.peer",
    "current_registry": "metrics.registry",
    "default_policy": "policy.server_policy",
    "dialling": "mesh.peer",
    "find_identity": "mesh.identities",
    "gateway": "mesh.gateway",
    "handler": "http.handler",
    "inbound": "mesh.inbound",
    "open_listeners": "io.listen",
    "opened": "core.stack",
    "otlp_from_environment": "mesh.open_telemetry",
    "otlp_metrics_from_environment": "mesh.open_telemetry",
    "outbound": "mesh.outbound",
    "parse_address": "address",
    "reverse_proxy": "mesh.reverse",
    "run_workers": "mesh.workers",
    "serve": "core.serve",
    "spiffe": "mesh.spiffe",
    "tap_server": "mesh.tap_server",
}

# One name a line would make this file too long to read.
# fmt: off
__all__ = [
    "BETWEEN_PROXIES", "AccessLog", "Address", "Aim", "Authority", "Authorization", "Authorize", "Backend", "Backoff",
    "BadGateway", "BadRequest", "Balance", "Body", "Breaker", "Budget", "Certify", "Client", "Connect",
    "ConnectFailed", "ConnectTimeout", "Connection", "Credentials", "Denied", "Destinations", "Detect", "Dial", "Dns",
    "Downgrade", "Drain", "Endpoint", "EndpointsFile", "Exact", "Exchange", "FailFast", "Files", "FirstAvailable",
    "Forward", "Given", "GrpcMatch", "GrpcRoute", "Header", "Headers", "Hedge", "Http", "HttpRoute", "Identity",
    "InboundHeaders", "Inject", "InvalidConfiguration", "Issued", "Layer", "LeastRequest", "Limit", "Limits",
    "Listener", "LivePolicy", "Match", "MeshPeer", "Meshed", "Metrics", "Mirror", "Network", "NoBackend", "NoRoute",
    "OpaqueRoute", "Originate", "Otlp", "OtlpMetrics", "OutboundHeaders", "Overloaded", "P2c", "Prefix",
    "PrometheusClientBridge", "ProxyError", "ProxyProtocol", "Published", "RateLimit", "RateLimited", "RateOverride",
    "Redirect", "Regex", "ReplacePrefix", "Request", "RequestHeaderModifier", "Rescue", "Resolution", "Resolve",
    "Response", "ResponseHeaderModifier", "ResponseTimeout", "Retry", "Rewrite", "Ring", "RoundRobin", "Route",
    "Rule", "SendProxyProtocol", "SendTransportHeader", "ServerPolicy", "Service", "Sidecar", "Split", "Stack",
    "Static", "Streamed", "Tagged", "Tap", "Target", "Terminate", "Timeout", "Timeouts", "Tls", "TlsAuthenticated",
    "TlsRoute", "TlsUnauthenticated", "Towards", "Trace", "TransportHeader", "Unauthenticated", "UnixAddress",
    "Upgrade", "UpstreamClosed", "UpstreamReset", "Whole", "Workers", "__version__", "admin", "asking",
    "current_registry", "default_policy", "dialling", "find_identity", "gateway", "handler", "inbound",
    "open_listeners", "opened", "otlp_from_environment", "otlp_metrics_from_environment", "outbound", "parse_address",
    "reverse_proxy", "run_workers", "serve", "spiffe", "tap_server",
]
# fmt: on


if not TYPE_CHECKING:  # a checker that saw this would take every mistyped name for one of ours

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value  # the next look-up finds it at once
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
