"""The stacks that lead to backends, made from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from linkerd_proxy.balance.balance import Balance
from linkerd_proxy.balance.breaker import Breaker
from linkerd_proxy.balance.picks import Pick
from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.core.endpoint import Resolve
from linkerd_proxy.core.stack import Layer, Stack
from linkerd_proxy.core.work import Dial, Exchange
from linkerd_proxy.discover.dns import Dns
from linkerd_proxy.discover.file import EndpointsFile
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.h1.codec import CodecName
from linkerd_proxy.mesh.config.backends import BackendEntry
from linkerd_proxy.mesh.config.kept import Kept
from linkerd_proxy.mesh.config.profiles import RouteStacks
from linkerd_proxy.mesh.config.ways import Asking, Dialling, Way
from linkerd_proxy.mesh.config.words import BackendRefs, named_backends
from linkerd_proxy.route.profile import WithProfile
from linkerd_proxy.route.split import Backend, FirstAvailable, Split
from linkerd_proxy.tls.identity import Identity

__all__ = ["Backends"]


class Backends:
    """The backends of a document: each is one stack, however often it is named.

    Args:
        entries: What the document says of them.
        identity: What the proxy proves to endpoints that have an identity.
        base: The directory that files are relative to.
        kept: Where discoveries are kept.
        codec: The library that parses HTTP/1.
    """

    def __init__(
        self,
        entries: Mapping[str, BackendEntry],
        identity: Identity | None,
        base: Path,
        kept: Kept,
        codec: CodecName = "auto",
    ) -> None:
        self._entries = entries
        self._identity = identity
        self._base = base
        self._kept = kept
        self._codec: CodecName = codec
        self._exchanges: dict[str, Stack[Exchange]] = {}
        self._services: dict[str, Stack[Exchange]] = {}
        self._dials: dict[str, Stack[Dial]] = {}

    def exchanges(self, refs: BackendRefs) -> Stack[Exchange]:
        """Return the stack that serves requests at some backends."""
        named = named_backends(refs)
        if len(named) == 1:
            return self.exchange(named[0][0])
        return Split([Backend(self.exchange(name), weight, name) for name, weight in named])

    def dials(self, refs: BackendRefs) -> Stack[Dial]:
        """Return the stack that connects to some backends."""
        named = named_backends(refs)
        if len(named) == 1:
            return self.dial(named[0][0])
        return Split([Backend(self.dial(name), weight, name) for name, weight in named])

    def exchange(self, name: str) -> Stack[Exchange]:
        """Return the stack that serves requests at a backend."""
        if name not in self._exchanges:
            entry = self._entry(name)
            stack = self._profiled(name, entry)
            labels = {"backend": name}
            layers: list[Layer[Exchange, Exchange]] = []
            if entry.timeouts is not None:
                layers.append(entry.timeouts.layer())
            if entry.limit is not None:
                layers.append(entry.limit.layer())
            if entry.retry is not None:
                layers.append(entry.retry.layer(labels))
            if entry.hedge is not None:
                layers.append(entry.hedge.layer(labels))
            for layer in reversed(layers):
                stack = layer | stack
            self._exchanges[name] = stack
        return self._exchanges[name]

    def dial(self, name: str) -> Stack[Dial]:
        """Return the stack that connects to a backend."""
        if name not in self._dials:
            entry = self._entry(name)
            way = self._way(name, entry)
            resolve = self._resolve(entry)
            if entry.first_available:
                self._dials[name] = FirstAvailable([self.dial(other) for other in entry.first_available])
            elif resolve is None:
                self._dials[name] = way.dials_on()
            else:
                self._dials[name] = Balance(resolve, Dialling(way), **_tuning(name, entry))
        return self._dials[name]

    def _profiled(self, name: str, entry: BackendEntry) -> Stack[Exchange]:
        """Return the service behind what its profile says of its requests."""
        service = self._service(name)
        if entry.profile is None:
            return service
        profile = entry.profile.value()
        # Overrides lead to the services themselves: what is to be done with a request, its own service says.
        service = profile.destination(service, self._service)
        if not profile.routes:
            return service
        budget = entry.profile.retry_budget.value()
        return WithProfile(profile, RouteStacks(service, budget, entry.profile.retry_limit, {"backend": name}))

    def _service(self, name: str) -> Stack[Exchange]:
        """Return what serves requests at a backend, whatever is to be done with them."""
        if name not in self._services:
            entry = self._entry(name)
            way = self._way(name, entry)
            resolve = self._resolve(entry)
            if entry.first_available:
                self._services[name] = FirstAvailable([self.exchange(other) for other in entry.first_available])
            elif resolve is None:
                self._services[name] = way.exchanges_on()
            else:
                self._services[name] = Balance(resolve, Asking(way), **_tuning(name, entry))
        return self._services[name]

    def _entry(self, name: str) -> BackendEntry:
        if name not in self._entries:
            raise InvalidConfiguration(f"there is no backend {name!r}: the backends are {', '.join(self._entries)}")
        return self._entries[name]

    def _way(self, name: str, entry: BackendEntry) -> Way:
        return Way(name, entry, self._identity, self._base, self._codec)

    def _resolve(self, entry: BackendEntry) -> Resolve | None:
        """Return where the endpoints become known, or None for a backend that has none of its own."""
        if entry.endpoints:
            return self._kept.keep(entry.static())
        if entry.dns is not None:
            return self._kept.keep(Dns(entry.dns) if isinstance(entry.dns, str) else entry.dns.resolve())
        if isinstance(entry.file, str):
            return self._kept.keep(EndpointsFile(self._base / entry.file))
        if entry.file is not None:
            return self._kept.keep(entry.file.resolve(self._base))
        return None


class _Tuning(TypedDict):
    pick: Pick
    breaker: Breaker | None
    queue: int
    failfast: float
    zone: str
    spill: float
    slow_start: float
    connect_backoff: Backoff
    name: str


def _tuning(name: str, entry: BackendEntry) -> _Tuning:
    balance = entry.balance
    return {
        "pick": balance.picked(),
        "breaker": None if entry.breaker == "off" else entry.breaker.value(),
        "queue": balance.queue,
        "failfast": balance.failfast,
        "zone": balance.zone,
        "spill": balance.spill,
        "connect_backoff": balance.connect_backoff.value(),
        "slow_start": balance.slow_start,
        "name": name,
    }
