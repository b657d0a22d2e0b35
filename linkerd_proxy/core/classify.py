"""Success or failure: the one verdict on an answer that metrics, breakers and retries share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import trio

from linkerd_proxy.core.message import Response
from linkerd_proxy.errors import (
    GrpcStatus,
    IdleTimeout,
    ResponseTimeout,
    UpstreamClosed,
    UpstreamProtocolError,
    UpstreamReset,
)

__all__ = ["BROKEN", "Classify", "Verdict", "classify", "grpc_status_of"]

Verdict: TypeAlias = Literal["success", "failure"]

BROKEN: tuple[type[Exception], ...] = (
    UpstreamClosed,
    UpstreamReset,
    UpstreamProtocolError,
    ResponseTimeout,
    IdleTimeout,
    OSError,
    trio.BrokenResourceError,
)
"""Failures in the midst of an exchange: they are the upstream's, which may have processed the request."""

Classify: TypeAlias = Callable[[int, str, str], Verdict]
"""Judges an answer by its status (0 for none), its gRPC status or nothing, and its failure code or nothing."""

# The statuses that tell of a fault of the server or of the way to it, not of the caller's wish. (Linkerd counts the
# same ones: linkerd2-proxy, linkerd/proxy/client-policy/src/grpc.rs)
_GRPC_FAILURES = frozenset(
    str(status.value)
    for status in (
        GrpcStatus.UNKNOWN,
        GrpcStatus.DEADLINE_EXCEEDED,
        GrpcStatus.PERMISSION_DENIED,
        GrpcStatus.INTERNAL,
        GrpcStatus.UNAVAILABLE,
        GrpcStatus.DATA_LOSS,
    )
)
_GRPC_STATUSES = frozenset(str(status.value) for status in GrpcStatus)


def classify(status: int, grpc_status: str = "", error: str = "") -> Verdict:
    """Return ``success`` or ``failure``: of an error, a 5xx, or a gRPC status that blames the server."""
    return "failure" if error or status >= 500 or grpc_status in _GRPC_FAILURES else "success"


def grpc_status_of(response: Response) -> str:
    """Return a gRPC answer's status, from the trailers once they are there, or from the head of one without a body.

    The upstream chooses it; what is no status of gRPC's counts as ``UNKNOWN``, so that it may become a label.
    """
    trailers = response.body.trailers
    value = None if trailers is None else trailers.get("grpc-status")
    if value is None:
        value = response.headers.get("grpc-status")
    return value if value in _GRPC_STATUSES else str(GrpcStatus.UNKNOWN.value)
