"""How a call ended: statuses, their text on the wire, and what other failures mean in gRPC."""

from __future__ import annotations

from urllib.parse import quote, unquote

import trio

from linkerd_proxy.core.message import Response
from linkerd_proxy.errors import ProxyError, UpstreamReset
from linkerd_proxy.grpc.metadata import Metadata, read_metadata
from linkerd_proxy.grpc_status import GrpcStatus
from linkerd_proxy.headers import Headers

__all__ = ["GrpcError", "failure_of", "final_status", "status_fields", "status_of"]


class GrpcError(Exception):
    """A call ended with a status other than OK, or a handler says that it shall.

    Args:
        status: The status.
        message: What happened, for people.
        trailers: The metadata that came, or shall go, with the status.

    Where a connection failed and no peer said so, ``__cause__`` is what it failed with.
    """

    def __init__(self, status: GrpcStatus, message: str = "", trailers: Metadata = ()) -> None:
        super().__init__(status, message)
        self.status: GrpcStatus = status
        self.message: str = message
        self.trailers: Metadata = trailers

    def __str__(self) -> str:
        return f"{self.status.name}: {self.message}" if self.message else self.status.name


# --- on the wire -------------------------------------------------------------------------------

_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if code != 0x25)  # all but the percent sign
_MAX_MESSAGE = 1024  # characters; own figure: a status stands in a header block, which peers limit


def status_fields(status: GrpcStatus, message: str = "") -> list[tuple[str, str]]:
    """Return the fields that tell a status (grpc/grpc, doc/PROTOCOL-HTTP2.md, "Status" and "Status-Message")."""
    fields = [("grpc-status", str(status.value))]
    if message:
        fields.append(("grpc-message", quote(message[:_MAX_MESSAGE], safe=_PRINTABLE, errors="replace")))
    return fields


# doc/http-grpc-status-mapping.md, for answers of somebody who doesn't speak gRPC.
_HTTP = {
    400: GrpcStatus.INTERNAL,
    401: GrpcStatus.UNAUTHENTICATED,
    403: GrpcStatus.PERMISSION_DENIED,
    404: GrpcStatus.UNIMPLEMENTED,
    429: GrpcStatus.UNAVAILABLE,
    502: GrpcStatus.UNAVAILABLE,
    503: GrpcStatus.UNAVAILABLE,
    504: GrpcStatus.UNAVAILABLE,
}


def refusal_of(response: Response) -> GrpcError | None:
    """Return what is wrong with a response's head if it is none of gRPC's."""
    if "grpc-status" in response.headers:
        return None
    said = response.headers.get("l5d-proxy-error")
    more = f": {said}" if said else ""
    if response.status != 200:
        return GrpcError(_HTTP.get(response.status, GrpcStatus.UNKNOWN), f"the answer is HTTP {response.status}{more}")
    kind = response.headers.get("content-type") or ""
    if not kind.startswith("application/grpc"):
        return GrpcError(GrpcStatus.UNKNOWN, f"the answer is no gRPC: its content-type is {kind[:100]!r}{more}")
    return None


def final_status(response: Response) -> GrpcError | None:
    """Return how a call ended whose response has been pulled to its end, None for OK."""
    fields: Headers | None = response.body.trailers
    if fields is None or "grpc-status" not in fields:
        fields = response.headers
    text = fields.get("grpc-status")
    if text is None:
        return GrpcError(GrpcStatus.UNKNOWN, "the answer ended without a status")
    try:
        status = GrpcStatus(int(text))
    except ValueError:
        return GrpcError(GrpcStatus.UNKNOWN, f"the answer's status is {text[:20]!r}")
    if status is GrpcStatus.OK:
        return None
    return GrpcError(status, unquote(fields.get("grpc-message") or "", errors="replace"), read_metadata(fields))


# --- other failures ----------------------------------------------------------------------------

# doc/PROTOCOL-HTTP2.md, "HTTP2 Transport Mapping": what a reset stream means.
_RESETS = {
    0x7: GrpcStatus.UNAVAILABLE,
    0x8: GrpcStatus.CANCELLED,
    0xB: GrpcStatus.RESOURCE_EXHAUSTED,
    0xC: GrpcStatus.PERMISSION_DENIED,
}


def status_of(error: Exception) -> GrpcStatus | None:
    """Return what the failure of a service means in gRPC, or None for one that is nothing of the network's."""
    if isinstance(error, GrpcError):
        return error.status
    if isinstance(error, UpstreamReset) and error.http2_code is not None:
        return _RESETS.get(error.http2_code, GrpcStatus.INTERNAL)
    if isinstance(error, ProxyError):
        return error.grpc_status
    return GrpcStatus.UNAVAILABLE if isinstance(error, OSError | trio.BrokenResourceError) else None


def failure_of(error: Exception) -> Exception:
    """Return a service's failure as a :exc:`GrpcError` that it caused, or as it is if it is a bug."""
    status = status_of(error)
    if status is None or isinstance(error, GrpcError):
        return error
    failure = GrpcError(status, str(error) or type(error).__name__)
    failure.__cause__ = error
    return failure
