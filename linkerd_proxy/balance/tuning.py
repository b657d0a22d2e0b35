"""What a balancer's pool is told once."""

from __future__ import annotations

from linkerd_proxy.balance.breaker import Breaker
from linkerd_proxy.balance.picks import P2c
from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.core.classify import Classify

__all__ = ["Tuning"]


class Tuning:
    """How endpoints are measured, ejected and taken back."""

    __slots__ = ("breaker", "classify", "connect_backoff", "measure", "slow_start", "zone")

    def __init__(
        self,
        *,
        measure: P2c,
        breaker: Breaker | None,
        connect_backoff: Backoff,
        classify: Classify,
        zone: str,
        slow_start: float,
    ) -> None:
        self.measure: P2c = measure
        self.breaker: Breaker | None = breaker
        self.connect_backoff: Backoff = connect_backoff
        self.classify: Classify = classify
        self.zone: str = zone
        self.slow_start: float = slow_start

    def __repr__(self) -> str:
        return f"<Tuning {self.measure}, {self.breaker}>"
