"""Deadlines now; budgets, replay and retries belong here too."""

from linkerd_proxy.retry.timeout import Timeout

__all__ = ["Timeout"]
