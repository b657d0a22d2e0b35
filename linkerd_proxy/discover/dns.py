"""Endpoints from the DNS: A and AAAA records, or SRV."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import MISSING, dataclass, field, fields
from random import Random
from types import MappingProxyType

import trio

from linkerd_proxy.address import Address, UnixAddress, parse_address
from linkerd_proxy.core.background import open_background
from linkerd_proxy.core.endpoint import Endpoint, Resolution, Resolve
from linkerd_proxy.core.work import Protocol
from linkerd_proxy.discover.lookup import Answer, Failure, Found, Lookup, Record, RecordType, make_lookup
from linkerd_proxy.discover.publish import Published
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.registry import Counter, current_registry

__all__ = ["Dns"]

logger: logging.Logger = logging.getLogger("linkerd_proxy.discover")

_MAX_TARGETS = 100  # names that one SRV answer may send us to look up; own figure
_AT_ONCE = 10  # look-ups at a time
_NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, repr=False)
class Dns(Resolve):
    """Endpoints that the DNS names, asked for again whenever its answer has expired.

    ``Dns("web.example:80")`` makes an endpoint of each A and AAAA record; ``Dns("_http._tcp.web.example")`` follows SRV
    records, with their ports and weights, of the first priority that has addresses (RFC 2782).

    The last good set is kept while servers fail, and while they say that the name does not exist: those who use the
    endpoints will see whether they still are there. Only if there never was a good answer, work fails at once.

    The servers alone are asked, and not ``/etc/hosts``; ``localhost`` is this host's loopback without a question.

    Args:
        name: ``host:port``, or an SRV name, whose first label begins with ``_``.
        servers: Whom to ask, as ``ip`` or ``ip:port``; by default those of /etc/resolv.conf, with its search list.
        min_ttl: Seconds between questions at least, whatever the answers say, failures and negative ones included
            (Linkerd: 5).
        max_ttl: Seconds between questions at most (own figure).
        timeout: Seconds for each question, all tries together.
        identity: The name that the endpoints must prove by mutual TLS.
        protocol: What they speak.
        zone: Where they run.
        labels: For metrics.
        lookup: Looks up records in the place of dnspython.
        dice: What is random: questions come a little late, not in step with those of other proxies.

    Raises:
        InvalidConfiguration: for a name that is none (over 253 octets, labels over 63), and when opened without
            dnspython (extra ``dns``).
    """

    name: str
    servers: tuple[str, ...] = ()
    min_ttl: float = 5.0
    max_ttl: float = 300.0
    timeout: float = 5.0
    identity: str | None = None
    protocol: Protocol | None = None
    zone: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS, hash=False)
    lookup: Lookup | None = field(default=None, repr=False)
    dice: Random = field(default_factory=Random, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "servers", tuple(self.servers))
        if not 1 <= self.min_ttl <= self.max_ttl:
            raise InvalidConfiguration(f"Dns(min_ttl={self.min_ttl!r}): give at least 1 s, and not more than max_ttl")
        if not self.timeout > 0:
            raise InvalidConfiguration(f"Dns(timeout={self.timeout!r}): give seconds above 0")
        self._address()

    @property
    def is_srv(self) -> bool:
        """Whether the name is one of SRV records."""
        return self.name.startswith("_")

    def _address(self) -> Address:
        address = parse_address(self.name, default_port=0 if self.is_srv else None)
        if isinstance(address, UnixAddress) or not address.host:
            raise InvalidConfiguration(f"Dns({self.name!r}) names no host: write it as in Dns('web.example:80')")
        if self.is_srv and address.port:
            raise InvalidConfiguration(f"Dns({self.name!r}): SRV records name the port themselves, leave it out")
        return address

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Resolution]:
        """Yield the resolution, which tells once the first answer has come."""
        published = Published()
        address = self._address()
        if address.is_ip:
            published.publish([self._endpoint(address.host, address.port, 1.0)])
            yield published
            return
        if _is_localhost(address.host):
            published.publish([self._endpoint(host, address.port, 1.0) for host in ("127.0.0.1", "::1")])
            yield published
            return
        asking = _Asking(self, address, self.lookup or make_lookup(self.servers, self.timeout), published)
        async with open_background() as nursery:
            nursery.start_soon(asking.run)
            yield published

    def _endpoint(self, host: str, port: int, weight: float) -> Endpoint:
        return Endpoint(
            Address(host, port),
            weight=weight,
            identity=self.identity,
            protocol=self.protocol,
            zone=self.zone,
            labels=self.labels,
        )

    def __repr__(self) -> str:
        changed = [
            f"{one.name}={getattr(self, one.name)!r}"
            for one in fields(self)[1:]
            if one.repr and getattr(self, one.name) != (one.default if one.default is not MISSING else _NO_LABELS)
        ]
        return f"Dns({', '.join([repr(self.name), *changed])})"


def _is_localhost(name: str) -> bool:
    """Whether a name is this host's own, which no server is asked for (RFC 6761 section 6.3)."""
    return f".{name.removesuffix('.')}".endswith(".localhost")


class _Asking:
    """The questions of one open ``Dns``, and the last good answer to each."""

    __slots__ = ("_address", "_config", "_counters", "_failed", "_good", "_lookup", "_published", "_ttl", "_why")

    def __init__(self, config: Dns, address: Address, lookup: Lookup, published: Published) -> None:
        registry = current_registry()
        self._config = config
        self._address = address
        self._lookup = lookup
        self._published = published
        self._good: dict[tuple[str, RecordType], tuple[Record, ...]] = {}
        self._ttl = 0.0
        self._failed = False
        self._why = ""
        self._counters: dict[str, Counter] = {
            result: registry.counter("dns_lookups_total", "DNS questions, by how they were answered", result=result)
            for result in ("found", "none", "failed")
        }

    async def run(self) -> None:
        """Ask for ever."""
        config = self._config
        while True:
            self._ttl = config.max_ttl
            self._failed = False
            endpoints = await (self._srv() if config.is_srv else self._addresses(self._address.host))
            if endpoints:
                self._published.publish(
                    [config._endpoint(host, port or self._address.port, weight) for host, port, weight in endpoints]
                )
            elif not self._published.endpoints and not self._failed:
                self._published.withdraw(f"the DNS has no addresses for {self._address.host}")
            elif not self._published.endpoints:
                logger.warning("the DNS can't tell of %s: %s", self._address.host, self._why)
            wait = max(config.min_ttl, min(self._ttl, config.max_ttl))
            await trio.sleep(wait * (1 + 0.05 * config.dice.random()))

    async def _ask(self, name: str, kind: RecordType) -> tuple[Record, ...]:
        """Return the records of a name, or where that fails the last ones that were good."""
        answer: Answer = await self._lookup(name, kind)
        match answer:
            case Found(records, ttl):
                self._ttl = min(self._ttl, ttl)
                self._counters["found" if records else "none"].value += 1
                if records:
                    self._good[name, kind] = records
                return records
            case Failure(problem):
                self._ttl = self._config.min_ttl
                self._counters["failed"].value += 1
                self._failed = True
                if self._why != problem:
                    logger.info("asking the DNS for %s of %s failed: %s", kind, name, problem)
                self._why = problem
                return self._good.get((name, kind), ())

    async def _addresses(self, name: str) -> list[tuple[str, int, float]]:
        """Return the addresses of a name, asking for both families at once."""
        found: dict[RecordType, tuple[Record, ...]] = {}

        async def ask(kind: RecordType) -> None:
            found[kind] = await self._ask(name, kind)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "A")
            nursery.start_soon(ask, "AAAA")
        return [(record.host, 0, 1.0) for record in (*found["A"], *found["AAAA"])]

    async def _srv(self) -> list[tuple[str, int, float]]:
        """Return the addresses of the first priority that has any."""
        records = sorted(await self._ask(self._address.host, "SRV"), key=lambda record: record.priority)[:_MAX_TARGETS]
        for priority in dict.fromkeys(record.priority for record in records):
            group = [record for record in records if record.priority == priority and record.host != "."]
            endpoints = await self._targets(group)
            if endpoints:
                return endpoints
        return []

    async def _targets(self, group: list[Record]) -> list[tuple[str, int, float]]:
        endpoints: list[tuple[str, int, float]] = []
        room = trio.CapacityLimiter(_AT_ONCE)
        # A weight of 0 is a very small share beside others, and an equal one among equals (RFC 2782).
        smallest = 0.1 if any(record.weight for record in group) else 1.0

        async def ask(record: Record) -> None:
            async with room:
                found = await self._addresses(record.host)
            share = (record.weight or smallest) / max(1, len(found))
            endpoints.extend((host, record.port, share) for host, _, _ in found)

        async with trio.open_nursery() as nursery:
            for record in group:
                nursery.start_soon(ask, record)
        return sorted(endpoints)
