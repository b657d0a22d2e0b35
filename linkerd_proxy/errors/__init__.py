"""What can go wrong, by whose fault it is: every failure has a short code, an HTTP status and a gRPC status.

The codes are in the manner of Envoy's response flags. The same code stands in the ``l5d-proxy-error``
response header, in the log line and in the metric label; ``linkerd_proxy.errors.CODES`` lists them all.
Statuses follow Linkerd's own table of error answers. There is a file for each who may be at fault.
"""

from __future__ import annotations

from linkerd_proxy.errors.client import (
    BadRequest,
    DetectTimeout,
    HandshakeFailed,
    PayloadTooLarge,
    RequestRefused,
    RequestTimeout,
)
from linkerd_proxy.errors.configuration import InvalidConfiguration
from linkerd_proxy.errors.layer import AlreadyAnswered, NotAnswered
from linkerd_proxy.errors.proxy_error import CODES, ProxyError
from linkerd_proxy.errors.refusal import (
    Denied,
    FailFast,
    GatewayDomain,
    Injected,
    LoopDetected,
    NoBackend,
    NoCredentials,
    NoRoute,
    NoTarget,
    Overloaded,
    RateLimited,
)
from linkerd_proxy.errors.upstream import (
    BadGateway,
    ConnectFailed,
    ConnectTimeout,
    IdentityMismatch,
    IdleTimeout,
    ResponseTimeout,
    UpstreamClosed,
    UpstreamHandshakeFailed,
    UpstreamProtocolError,
    UpstreamReset,
    UpstreamUnsent,
)
from linkerd_proxy.grpc_status import GrpcStatus

__all__ = [
    "CODES",
    "AlreadyAnswered",
    "BadGateway",
    "BadRequest",
    "ConnectFailed",
    "ConnectTimeout",
    "Denied",
    "DetectTimeout",
    "FailFast",
    "GatewayDomain",
    "GrpcStatus",
    "HandshakeFailed",
    "IdentityMismatch",
    "IdleTimeout",
    "Injected",
    "InvalidConfiguration",
    "LoopDetected",
    "NoBackend",
    "NoCredentials",
    "NoRoute",
    "NoTarget",
    "NotAnswered",
    "Overloaded",
    "PayloadTooLarge",
    "ProxyError",
    "RateLimited",
    "RequestRefused",
    "RequestTimeout",
    "ResponseTimeout",
    "UpstreamClosed",
    "UpstreamHandshakeFailed",
    "UpstreamProtocolError",
    "UpstreamReset",
    "UpstreamUnsent",
]
