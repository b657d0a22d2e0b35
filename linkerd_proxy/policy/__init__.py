"""What is let in, and how much of it."""

from linkerd_proxy.policy.admit import Limit, Limiter, LimitStatistics

__all__ = ["Limit", "LimitStatistics", "Limiter"]
