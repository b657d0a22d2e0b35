"""Deadlines, and asking again: budgets, replay, retries."""

from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.retry.budget import Account, Budget
from linkerd_proxy.retry.hedge import Hedge
from linkerd_proxy.retry.retry import Retry
from linkerd_proxy.retry.timeout import Timeout
from linkerd_proxy.retry.timeouts import Timeouts

__all__ = ["Account", "Backoff", "Budget", "Hedge", "Retry", "Timeout", "Timeouts"]
