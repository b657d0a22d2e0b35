"""The upstream's fault, or that of the way to it."""

from __future__ import annotations

from linkerd_proxy.errors.proxy_error import ProxyError
from linkerd_proxy.grpc_status import GrpcStatus

__all__ = [
    "BadGateway",
    "ConnectFailed",
    "ConnectTimeout",
    "IdentityMismatch",
    "IdleTimeout",
    "ResponseTimeout",
    "UpstreamClosed",
    "UpstreamHandshakeFailed",
    "UpstreamProtocolError",
    "UpstreamReset",
    "UpstreamUnsent",
]


class BadGateway(ProxyError):
    """The upstream did something that makes its answer unusable."""

    code = "UE"
    status = 502
    grpc_status = GrpcStatus.UNAVAILABLE


class ConnectFailed(BadGateway):
    """No connection to the upstream could be made; no byte of the request was sent."""

    code = "UF"
    remedy = "check that the upstream listens on that address"


class ConnectTimeout(ConnectFailed):
    """The upstream did not accept a connection in time; no byte of the request was sent."""

    code = "UFT"
    status = 504
    grpc_status = GrpcStatus.DEADLINE_EXCEEDED
    remedy = "check the upstream's host and firewall, or raise Connect(timeout=...)"


class UpstreamHandshakeFailed(ConnectFailed):
    """The upstream and the proxy could not agree on TLS, or its certificate was refused; ``reason`` says why."""

    code = "UTF"
    reason: str = "protocol"
    remedy = "look into the upstream's certificate and trust anchors"


class IdentityMismatch(UpstreamHandshakeFailed):
    """The upstream proved another identity than the one that was asked for, or none."""

    code = "UIM"
    reason = "identity"
    remedy = "correct the expected identity, or what listens on that address"


class UpstreamUnsent(BadGateway):
    """The upstream surely did not process the request (REFUSED_STREAM, GOAWAY below it): safe to repeat."""

    code = "URX"
    remedy = "repeat the request: it was not processed"


class UpstreamClosed(BadGateway):
    """The upstream closed the connection before its answer was complete."""

    code = "UC"
    remedy = "look into the upstream's log: it closed before it had answered"


class UpstreamReset(BadGateway):
    """The upstream reset the stream or the connection.

    ``http2_code`` holds the HTTP/2 error code of a RST_STREAM, for passing it on to an HTTP/2 client.
    """

    code = "UR"
    http2_code: int | None = None
    remedy = "look into the upstream's log: it reset the stream"


class UpstreamProtocolError(BadGateway):
    """The upstream's message breaks the protocol."""

    code = "UPE"
    remedy = "correct the upstream's response"


class IdleTimeout(ProxyError):
    """Nothing moved in either direction for too long."""

    code = "SI"
    status = 504
    grpc_status = GrpcStatus.DEADLINE_EXCEEDED
    closes = False


class ResponseTimeout(ProxyError):
    """The exchange took longer than its deadline."""

    code = "UT"
    status = 504
    grpc_status = GrpcStatus.DEADLINE_EXCEEDED
    closes = False
    remedy = "look for what keeps the upstream, or raise Timeout(...)"
