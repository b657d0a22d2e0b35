"""The layer that bounds how many requests a second come in, in all and from each client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Literal, TypeAlias

import trio
from typing_extensions import TypeVar

from linkerd_proxy.address import Address
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.errors import InvalidConfiguration, RateLimited
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.names import check_identity
from linkerd_proxy.policy.gcra import Gcra

__all__ = ["RateLimit", "RateOverride"]

W = TypeVar("W", bound=Connection | Exchange, default=Exchange)

_Kind: TypeAlias = Literal["total", "override", "identity", "address"]


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
        for client in self.clients:
            check_identity(client, f"RateOverride(clients=[{client!r}])")


@dataclass(frozen=True, slots=True, repr=False)
class RateLimit(Layer[W, W]):
    """Bounds how many requests a second come in (Linkerd: HTTPLocalRateLimitPolicy), by GCRA.

    A request is first held against the total, then against the override for its client's identity, or else against the
    rate of each identity. All clients without a proven identity share one (Linkerd), unless there is a rate for each
    address. One that is refused counts against none of them, so that a client that asks too much does not use up what
    belongs to all. (Linkerd takes it off the total.)

    Args:
        total: Requests a second of all clients together, or None for no bound.
        identity: Requests a second of each client, or None for no bound.
        overrides: Other rates for clients that are named.
        burst: For how many seconds' worth of requests may come at once (Linkerd: one second's).
        max_clients: Identities that are told apart, and as many addresses; those beyond share one rate, until others
            have been quiet long enough to be forgotten (own figure, some 2 MB).
        address: Requests a second from each address whose clients proved no identity, in the place of the one rate that
            they share: an IPv4 address, the 64 bits of an IPv6 network, or a user where they come by a Unix socket.

    Raises:
        RateLimited: with the seconds after which to come again; ``Rescue`` answers 429 with ``retry-after``.
        InvalidConfiguration: for a rate of 0 or less, or a client in two overrides.
    """

    total: float | None = None
    identity: float | None = None
    overrides: Sequence[RateOverride] = ()
    burst: float = 1.0
    max_clients: int = 10_000
    address: float | None = None

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
            for kind in ("total", "override", "identity", "address")
        }

        async def service(work: W) -> None:
            connection = work.connection if isinstance(work, Exchange) else work
            problem = limits.take(connection, trio.current_time())
            if problem is not None:
                kind, error = problem
                refused[kind].value += 1
                raise error
            await inner(work)

        yield service


class _Limits:
    """The buckets of one opened layer."""

    __slots__ = ("_addresses", "_anybody", "_clients", "_overrides", "_total")

    def __init__(self, config: RateLimit[W]) -> None:
        def bucket(rate: float) -> Gcra:
            return Gcra(rate, rate * config.burst)

        def table(rate: float | None) -> _Table | None:
            return None if rate is None else _Table(rate, rate * config.burst, config.max_clients)

        self._total = None if config.total is None else bucket(config.total)
        self._overrides: dict[str, Gcra] = {}
        for override in config.overrides:
            shared = bucket(override.rate)
            for client in override.clients:
                if client in self._overrides:
                    raise InvalidConfiguration(f"RateLimit: client {client!r} is in two overrides: keep one of them")
                self._overrides[client] = shared
        self._clients = table(config.identity)
        self._addresses = table(config.address)
        self._anybody = None if config.identity is None else bucket(config.identity)

    def take(self, connection: Connection, now: float) -> tuple[_Kind, RateLimited] | None:
        """Let one request of a client pass, or return which limit it hit and the error that tells so."""
        total = self._total
        if total is not None and (wait := total.wait(now)):
            return "total", _limited(total, "all clients together", wait)
        kind, whose, own = self._of_client(connection, now)
        if own is not None:
            if wait := own.wait(now):
                return kind, _limited(own, whose, wait)
            own.take(now)
        if total is not None:
            total.take(now)
        return None

    def _of_client(self, connection: Connection, now: float) -> tuple[_Kind, str, Gcra | None]:
        """Return the bucket of a client, which limit that is, and whose, in words."""
        identity = connection.tls.peer_identity if connection.tls else None
        if identity is not None:
            if own := self._overrides.get(identity):
                return "override", identity, own
            return "identity", identity, None if self._clients is None else self._clients.bucket(identity, now)
        if self._addresses is not None:
            origin = _origin(connection)
            return "address", f"{origin} without an identity", self._addresses.bucket(origin, now)
        return "identity", "all clients without an identity together", self._anybody


class _Table:
    """A bucket for each of so many clients, and one for all beyond."""

    __slots__ = ("_buckets", "_burst", "_max", "_rate", "_swept")

    def __init__(self, rate: float, burst: float, most: int) -> None:
        self._rate = rate
        self._burst = burst
        self._max = most
        self._buckets: dict[str, Gcra] = {}
        self._swept = float("-inf")
        Gcra(rate, burst)  # refuses now what no bucket can have

    def bucket(self, key: str, now: float) -> Gcra:
        """Return the bucket of one client, or the common one if there is no room for its own."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._max:
                self._sweep(now)
            if len(self._buckets) >= self._max:
                key = ""  # nobody's name: those there is no room for share it
                bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Gcra(self._rate, self._burst)
        return bucket

    def _sweep(self, now: float) -> None:
        """Forget buckets that are like new, at most once a second: looking at all of them takes a millisecond."""
        if now - self._swept >= 1:
            self._swept = now
            self._buckets = {key: bucket for key, bucket in self._buckets.items() if bucket.empty_at > now}


def _origin(connection: Connection) -> str:
    """Return where a client comes from, as far as he can't choose among many such places."""
    peer = connection.peer
    if not isinstance(peer, Address):
        from linkerd_proxy.io.unix_peer import unix_peer

        user = unix_peer(connection.stream)
        return "a Unix socket" if user is None else f"user {user.uid}"
    if ":" not in peer.host:
        return peer.host
    # Whoever has one address of IPv6 has the 64 bits' worth of its network.
    return str(ip_network((peer.host.partition("%")[0], 64), strict=False))


def _limited(bucket: Gcra, whose: str, wait: float) -> RateLimited:
    error = RateLimited(
        f"the rate of {1 / bucket.interval:g} requests a second of {whose} is used up", layer="RateLimit"
    )
    error.retry_after = wait
    return error
