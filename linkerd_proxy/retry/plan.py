"""What one exchange's retries go by: the layer's settings, or what the request's own headers put in their place."""

from __future__ import annotations

from dataclasses import dataclass, replace

from linkerd_proxy.core.classify import BROKEN
from linkerd_proxy.core.message import Request
from linkerd_proxy.duration import parse_duration
from linkerd_proxy.errors import (
    ConnectFailed,
    FailFast,
    InvalidConfiguration,
    UpstreamReset,
    UpstreamUnsent,
)
from linkerd_proxy.headers import Headers, RawHeaders
from linkerd_proxy.retry.conditions import parse_grpc, parse_http, parse_limit

__all__ = ["UNSENT", "Plan", "names_retries", "without_retry_headers"]

UNSENT = (ConnectFailed, UpstreamUnsent, FailFast)
"""Failures after which the upstream has surely not processed the request: whatever it is, it may be repeated."""

_PREFIX = b"l5d-retry-"
_ENHANCE_YOUR_CALM = 0xB


@dataclass(frozen=True, slots=True)
class Plan:
    """When a try is worth another one.

    Args:
        limit: How many retries there may be.
        statuses: HTTP statuses that are retried.
        grpc: gRPC statuses that are retried, as text.
        methods: Methods that may be repeated although the upstream may have processed them.
        timeout: Seconds that a try may take until its answer's head, unless it is the last; None for any time.
    """

    limit: int
    statuses: frozenset[int]
    grpc: frozenset[str]
    methods: frozenset[str]
    timeout: float | None

    def repeats(self, request: Request) -> bool:
        """Whether a request may be repeated although the upstream may have processed it.

        Every gRPC call is a POST: that its failures are to be retried is what says that calls may be repeated.
        """
        if request.wants_tunnel:
            return False
        return request.method in self.methods or (bool(self.grpc) and request.is_grpc)

    def retries(self, error: Exception, request: Request) -> bool:
        """Whether another try is worth it after a failure without an answer."""
        if isinstance(error, UNSENT):
            return True
        if isinstance(error, UpstreamReset) and error.http2_code == _ENHANCE_YOUR_CALM:
            return False  # it asked for less, not for the same again
        return isinstance(error, BROKEN) and self.repeats(request)

    def asked_by(self, headers: Headers) -> Plan:
        """Return the plan with what a request's ``l5d-retry-*`` headers say; what is malformed there says nothing."""
        plan = self
        for name, value in headers:
            try:
                if name == "l5d-retry-http":
                    plan = replace(plan, statuses=parse_http(value))
                elif name == "l5d-retry-grpc":
                    plan = replace(plan, grpc=parse_grpc(value))
                elif name == "l5d-retry-limit":
                    plan = replace(plan, limit=parse_limit(value))
                elif name == "l5d-retry-timeout":
                    plan = replace(plan, timeout=parse_duration(value) or plan.timeout)
            except InvalidConfiguration:
                continue
        return plan


def names_retries(raw: RawHeaders) -> bool:
    """Whether a request has headers that speak of retries to a proxy."""
    for name, _ in raw:  # noqa: SIM110  # on every request's way, where a generator costs as much again
        if name.startswith(_PREFIX):
            return True
    return False


def without_retry_headers(request: Request) -> Request:
    """Return the request without them: they are for the proxy, and not for who is behind it."""
    kept = [field for field in request.headers.raw if not field[0].startswith(_PREFIX)]
    return request.replace(headers=Headers.of(kept))
