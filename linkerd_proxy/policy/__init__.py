"""What is let in, and how much of it."""

from linkerd_proxy.policy.admit import Limit, Limiter, LimitStatistics
from linkerd_proxy.policy.authorize import Authorize
from linkerd_proxy.policy.clients import Network, TlsAuthenticated, TlsUnauthenticated, Unauthenticated
from linkerd_proxy.policy.ratelimit import RateLimit, RateOverride
from linkerd_proxy.policy.server_policy import Authorization, LivePolicy, ServerPolicy, default_policy

__all__ = [
    "Authorization",
    "Authorize",
    "Limit",
    "LimitStatistics",
    "Limiter",
    "LivePolicy",
    "Network",
    "RateLimit",
    "RateOverride",
    "ServerPolicy",
    "TlsAuthenticated",
    "TlsUnauthenticated",
    "Unauthenticated",
    "default_policy",
]
