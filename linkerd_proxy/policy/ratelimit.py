"""The layer that bounds how many requests a second come in, in all and from each client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import trio
from typing_extensions import TypeVar

from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.errors import InvalidConfiguration, RateLimited
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.policy.gcra import Gcra

__all__ = ["RateLimit", "RateOverride"]

W = TypeVar("W", bound=Connection | Exchange, default=Exchange)

_Kind: TypeAlias = Literal["total", "override", "identity"]


@dataclass(frozen=True, slots=True)
class RateOverride:
    """Another rate for some clients, in the place of the one for each identity. They share it.

    Args:
        rate: Requests a second.
        clients: The identities that it holds for.
    """

    rate: float
    clients: Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "clients", tuple(self.clients))
        if not self.clients:
            raise InvalidConfiguration(f"RateOverride({self.rate!r}, []) holds for nobody: name identities")


@dataclass(frozen=True, slots=True, repr=False)
class RateLimit(Layer[W, W]):
    """Bounds how many requests a second come in (Linkerd: HTTPLocalRateLimitPolicy), by GCRA.

    A request is first held against the total, then against the override for its client's identity, or else against the
    rate of each identity; all clients without a proven identity share one. One that is refused counts against none of
    them, so that a client that asks too much does not use up what belongs to all. (Linkerd takes it off the total.)

    Args:
        total: Requests a second of all clients together, or None for no bound.
        identity: Requests a second of each client, or None for no bound.
        overrides: Other rates for clients that are named.
        burst: For how many seconds' worth of requests may come at once (Linkerd: one second's).
        max_clients: Identities that are told apart; those beyond share one rate, until others have been quiet long
            enough to be forgotten (own figure, some 2 MB).

    Raises:
        RateLimited: with the seconds after which to come again; ``Rescue`` answers 429 with ``retry-after``.
        InvalidConfiguration: for a rate of 0 or less, or a client in two overrides.
    """

    total: float | None = None
    identity: float | None = None
    overrides: Sequence[RateOverride] = ()
    burst: float = 1.0
    max_clients: int = 10_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "overrides", tuple(self.overrides))
        if not self.burst > 0:
            raise InvalidConfiguration(f"RateLimit(burst={self.burst!r}): give more than 0 seconds")
        if self.max_clients < 1:
            raise InvalidConfiguration(f"RateLimit(max_clients={self.max_clients!r}): give at least 1")
        _Limits(self)

    @asynccontextmanager
    async def open(self, inner: Service[W]) -> AsyncIterator[Service[W]]:
        """Yield the live service, whose buckets are empty."""
        limits = _Limits(self)
        registry = current_registry()
        refused = {
            kind: registry.counter("rate_limited_total", "Requests refused by a rate limit, by which", by=kind)
            for kind in ("total", "override", "identity")
        }

        async def service(work: W) -> None:
            connection = work.connection if isinstance(work, Exchange) else work
            identity = connection.tls.peer_identity if connection.tls else None
            problem = limits.take(identity, trio.current_time())
            if problem is not None:
                kind, error = problem
                refused[kind].value += 1
                raise error
            await inner(work)

        yield service


class _Limits:
    """The buckets of one opened layer."""

    __slots__ = ("_clients", "_config", "_overrides", "_swept", "_total")

    def __init__(self, config: RateLimit[W]) -> None:
        self._config = config
        self._total = None if config.total is None else self._bucket(config.total)
        self._overrides: dict[str, Gcra] = {}
        self._clients: dict[str | None, Gcra] = {}
        self._swept = float("-inf")
        for override in config.overrides:
            bucket = self._bucket(override.rate)
            for client in override.clients:
                if client in self._overrides:
                    raise InvalidConfiguration(f"RateLimit: client {client!r} is in two overrides: keep one of them")
                self._overrides[client] = bucket
        if config.identity is not None:
            self._bucket(config.identity)

    def _bucket(self, rate: float) -> Gcra:
        return Gcra(rate, rate * self._config.burst)

    def take(self, identity: str | None, now: float) -> tuple[_Kind, RateLimited] | None:
        """Let one request of a client pass, or return which limit it hit and the error that tells so."""
        total = self._total
        if total is not None and (wait := total.wait(now)):
            return "total", _limited(total, "all clients together", wait)
        own = self._overrides.get(identity) if identity is not None else None
        kind: _Kind = "identity" if own is None else "override"
        if own is None and self._config.identity is not None:
            own = self._of_client(identity, now)
        if own is not None:
            if wait := own.wait(now):
                return kind, _limited(own, identity or "all clients without an identity together", wait)
            own.take(now)
        if total is not None:
            total.take(now)
        return None

    def _of_client(self, identity: str | None, now: float) -> Gcra:
        assert self._config.identity is not None
        bucket = self._clients.get(identity)
        if bucket is None:
            if len(self._clients) >= self._config.max_clients:
                self._sweep(now)
            if len(self._clients) >= self._config.max_clients:
                identity = ""  # nobody's name: those there is no room for share it
                bucket = self._clients.get(identity)
        if bucket is None:
            bucket = self._clients[identity] = self._bucket(self._config.identity)
        return bucket

    def _sweep(self, now: float) -> None:
        """Forget buckets that are like new, at most once a second: looking at all of them takes a millisecond."""
        if now - self._swept >= 1:
            self._swept = now
            self._clients = {key: bucket for key, bucket in self._clients.items() if bucket.empty_at > now}


def _limited(bucket: Gcra, whose: str, wait: float) -> RateLimited:
    error = RateLimited(
        f"the rate of {1 / bucket.interval:g} requests a second of {whose} is used up", layer="RateLimit"
    )
    error.retry_after = wait
    return error
