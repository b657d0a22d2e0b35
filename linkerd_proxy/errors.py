"""What can go wrong, by whose fault it is: every failure has a short code, an HTTP status and a gRPC status.

The codes are in the manner of Envoy's response flags. The same code stands in the ``l5d-proxy-error``
response header, in the log line and in the metric label; ``linkerd_proxy.errors.CODES`` lists them all.
Statuses follow Linkerd's own table of error answers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

__all__ = [
    "CODES",
    "AlreadyAnswered",
    "BadGateway",
    "BadRequest",
    "ConnectFailed",
    "ConnectTimeout",
    "DetectTimeout",
    "GrpcStatus",
    "IdleTimeout",
    "InvalidConfiguration",
    "LoopDetected",
    "NoRoute",
    "NoTarget",
    "NotAnswered",
    "Overloaded",
    "PayloadTooLarge",
    "ProxyError",
    "RequestRefused",
    "RequestTimeout",
    "ResponseTimeout",
    "UpstreamClosed",
    "UpstreamProtocolError",
    "UpstreamReset",
    "UpstreamUnsent",
]


class GrpcStatus(IntEnum):
    """The status codes of gRPC (grpc/grpc, doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


CODES: dict[str, type[ProxyError]] = {}
"""Every failure code and the error that carries it."""


class ProxyError(Exception):
    """Something failed in a way that the proxy understands and can explain.

    Args:
        problem: What happened, in plain words and without a full stop.
        layer: The layer that noticed, for example ``"Connect"``.
        endpoint: The peer that it happened with, as text.
        waited: How long the layer had waited, in seconds.
        remedy: What the reader can do about it.

    Context that only an outer layer knows goes up with ``error.add_note("endpoint 10.0.0.1:80")``.
    """

    code: ClassVar[str] = "PE"
    status: ClassVar[int] = 500
    grpc_status: ClassVar[GrpcStatus] = GrpcStatus.INTERNAL
    closes: ClassVar[bool] = True
    """Whether the answer also ends the client's HTTP/1 connection, as Linkerd does."""
    remedy: ClassVar[str] = ""

    def __init__(
        self,
        problem: str,
        *,
        layer: str = "",
        endpoint: str = "",
        waited: float | None = None,
        remedy: str = "",
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.layer = layer
        self.endpoint = endpoint
        self.waited = waited
        self.hint: str = remedy or self.remedy

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "code" in cls.__dict__:
            CODES[cls.code] = cls

    def __str__(self) -> str:
        text = self.problem
        if self.endpoint:
            text += f" (endpoint {self.endpoint})"
        if self.waited is not None:
            text += f" after {self.waited:.3g} s"
        if self.layer:
            text = f"{self.layer}: {text}"
        return f"{text}; {self.hint}" if self.hint else text

    @property
    def explanation(self) -> str:
        """The code and the message, as they stand in ``l5d-proxy-error`` and in the log."""
        return f"{self.code} {self}"


CODES["PE"] = ProxyError


# --- the client's fault ------------------------------------------------------------------------


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


# --- the upstream's fault ----------------------------------------------------------------------


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


# --- the proxy's own refusals ------------------------------------------------------------------


class NoRoute(ProxyError):
    """No route matches the request."""

    code = "NR"
    status = 404
    grpc_status = GrpcStatus.NOT_FOUND
    closes = False
    remedy = 'add a route for it, for example "/": ...'


class NoTarget(BadGateway):
    """A layer should connect but nothing said where to."""

    code = "NT"
    remedy = (
        "name an address, as in Connect('127.0.0.1:9000'), or redirect traffic so that it has an original destination"
    )


class Overloaded(ProxyError):
    """The proxy sheds load: a limit on work in flight is reached."""

    code = "UO"
    status = 503
    grpc_status = GrpcStatus.UNAVAILABLE
    remedy = "retry later, or raise the limit that the message names"


class LoopDetected(ProxyError):
    """The target is the proxy itself."""

    code = "LP"
    status = 508
    grpc_status = GrpcStatus.ABORTED
    remedy = "point the proxy at the application, not at itself"


class NotAnswered(BadGateway):
    """A service returned without having answered its exchange."""

    code = "NA"
    remedy = "the innermost layer must await exchange.respond(...) exactly once"


class AlreadyAnswered(ProxyError):
    """A service answered an exchange a second time: a bug in a layer."""

    code = "AA"
    remedy = "call exchange.respond(...) with one final response only"


class InvalidConfiguration(ValueError):
    """A value given to a layer or an option can't be used; the message names it and the remedy."""
