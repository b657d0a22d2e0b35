"""What can go wrong, by whose fault it is: every failure has a short code, an HTTP status and a gRPC status.

The codes are in the manner of Envoy's response flags. The same code stands in the ``l5d-proxy-error``
response header, in the log line and in the metric label; ``linkerd_proxy.errors.CODES`` lists them all.
Statuses follow Linkerd's own table of error answers.
"""

from __future__ import annotations

from typing import ClassVar

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
    retry_after: float | None = None
    """Seconds after which to try again, for the answer's ``retry-after``, or None."""

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


class HandshakeFailed(ProxyError):
    """The client and the proxy could not agree on TLS, or the client's certificate was refused.

    ``reason`` is one short word for the metric: ``expired``, ``unknown_ca``, ``no_certificate`` ...
    """

    code = "DTF"
    status = 400
    grpc_status = GrpcStatus.UNAUTHENTICATED
    reason: str = "protocol"


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


# --- the proxy's own refusals ------------------------------------------------------------------


class NoRoute(ProxyError):
    """No route matches the request."""

    code = "NR"
    status = 404
    grpc_status = GrpcStatus.NOT_FOUND
    closes = False
    remedy = 'add a route for it, for example "/": ...'


class GatewayDomain(NoRoute):
    """The gateway does not lead to where the client wants."""

    code = "GD"
    remedy = "correct the name, or add its domain to the gateway's suffixes"


class NoBackend(ProxyError):
    """A route matches the request but sends it nowhere: it has no backend, or none with any weight."""

    code = "NB"
    closes = False
    remedy = "give the rule a backend"


class NoTarget(BadGateway):
    """A layer should connect but nothing said where to."""

    code = "NT"
    remedy = "name an address, as in Connect('127.0.0.1:9000'), or redirect traffic, which keeps its destination"


class NoCredentials(ProxyError):
    """The proxy has no valid certificate of its own: none was issued yet, or it expired."""

    code = "NC"
    status = 503
    grpc_status = GrpcStatus.UNAVAILABLE
    remedy = "see the identity's log lines: its authority or its files are the cause"


class Denied(ProxyError):
    """The policy does not allow this client to do this."""

    code = "AD"
    status = 403
    grpc_status = GrpcStatus.PERMISSION_DENIED
    closes = False
    remedy = "authorize the client's identity or network in the policy"


class RateLimited(ProxyError):
    """The client used up its rate."""

    code = "RL"
    status = 429
    grpc_status = GrpcStatus.RESOURCE_EXHAUSTED
    closes = False
    remedy = "send less, or raise the rate limit that the message names"


class Injected(ProxyError):
    """A failure that the configuration injects on purpose.

    Args:
        status: The HTTP status to answer with.
    """

    code = "FI"
    grpc_status = GrpcStatus.FAILED_PRECONDITION
    closes = False

    def __init__(self, problem: str, status: int = 500, *, layer: str = "") -> None:
        super().__init__(problem, layer=layer)
        self.status = status  # type: ignore[misc]  # the one that the configuration names


class FailFast(ProxyError):
    """No endpoint was ready for too long, so requests fail at once until one is."""

    code = "FF"
    status = 504
    grpc_status = GrpcStatus.DEADLINE_EXCEEDED
    remedy = "look into the endpoints: none is there, reachable and healthy"


class Overloaded(ProxyError):
    """The proxy sheds load: a limit on work in flight is reached."""

    code = "UO"
    status = 503
    retry_after: float | None = 1.0  # own figure: shed load comes back soon, and spread by the clients' own jitter
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
