"""The client's fault."""

from __future__ import annotations

from linkerd_proxy.errors.proxy_error import ProxyError
from linkerd_proxy.grpc_status import GrpcStatus

__all__ = [
    "BadRequest",
    "DetectTimeout",
    "HandshakeFailed",
    "PayloadTooLarge",
    "RequestRefused",
    "RequestTimeout",
]


class BadRequest(ProxyError):
    """The client's message breaks the protocol; nothing of it was forwarded."""

    code = "DPE"
    status = 400
    grpc_status = GrpcStatus.INTERNAL
    remedy = "correct the client's request"


class RequestRefused(BadRequest):
    """The client's request is well formed, yet one that the proxy refuses with a status of its own.

    Args:
        status: The HTTP status to answer with (405, 417, 431, 501, 505 ...).
    """

    code = "DPR"

    def __init__(self, problem: str, status: int, *, layer: str = "", remedy: str = "") -> None:
        super().__init__(problem, layer=layer, remedy=remedy)
        self.status = status  # type: ignore[misc]  # one class, the few statuses of RFC 9110 section 15.5


class PayloadTooLarge(BadRequest):
    """The client sent more than a limit allows."""

    code = "DPL"
    status = 413
    grpc_status = GrpcStatus.RESOURCE_EXHAUSTED
    remedy = "send less, or raise the limit that the message names"


class RequestTimeout(ProxyError):
    """The client did not send its request in time."""

    code = "DT"
    status = 408
    grpc_status = GrpcStatus.DEADLINE_EXCEEDED
    remedy = "send the request faster, or raise the deadline that the message names"


class DetectTimeout(ProxyError):
    """The client said too little for its protocol to be recognised in time."""

    code = "DD"
    status = 408
    grpc_status = GrpcStatus.DEADLINE_EXCEEDED
    remedy = "list the port in opaque_ports if its server speaks first"


class HandshakeFailed(ProxyError):
    """The client and the proxy could not agree on TLS, or the client's certificate was refused.

    ``reason`` is one short word for the metric: ``expired``, ``unknown_ca``, ``no_certificate`` ...
    """

    code = "DTF"
    status = 400
    grpc_status = GrpcStatus.UNAUTHENTICATED
    reason: str = "protocol"
