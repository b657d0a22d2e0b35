"""The proxy's own refusals: what it will not do, or can't."""

from __future__ import annotations

from linkerd_proxy.errors.proxy_error import ProxyError
from linkerd_proxy.errors.upstream import BadGateway
from linkerd_proxy.grpc_status import GrpcStatus

__all__ = [
    "Denied",
    "FailFast",
    "GatewayDomain",
    "Injected",
    "LoopDetected",
    "NoBackend",
    "NoCredentials",
    "NoRoute",
    "NoTarget",
    "Overloaded",
    "RateLimited",
]


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
