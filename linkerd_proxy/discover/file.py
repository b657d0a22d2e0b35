"""Endpoints from a file that is watched."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from linkerd_proxy.address import AnyAddress, check_target, parse_address
from linkerd_proxy.core.background import open_background
from linkerd_proxy.core.endpoint import Endpoint, Resolution, Resolve
from linkerd_proxy.core.work import Protocol
from linkerd_proxy.discover.publish import Published
from linkerd_proxy.document.aside import read_aside
from linkerd_proxy.document.shape import Range, Text
from linkerd_proxy.document.watch import FileWatch
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.registry import check_labels, current_registry

__all__ = ["EndpointEntry", "EndpointsDocument", "EndpointsFile"]

logger: logging.Logger = logging.getLogger("linkerd_proxy.discover")


@dataclass(frozen=True, slots=True)
class EndpointEntry:
    """One endpoint as a document writes it; the fields are those of ``Endpoint``."""

    address: Annotated[AnyAddress, Text(parse_address, "10.0.0.1:80")]
    """Where it listens."""
    weight: Annotated[float, Range(0, 1_000_000)] = 1.0
    """Its part of the work, relative to the others'."""
    identity: str | None = None
    """The name that it must prove by mutual TLS."""
    server_name: str | None = None
    """The SNI to send, and for the ordinary web the host that its certificate must hold."""
    protocol: Protocol | None = None
    """What it speaks."""
    tagged_port: Annotated[int, Range(1, 65535)] | None = None
    """The port of its proxy that reads transport headers (Linkerd: 4143); by default its own."""
    zone: str = ""
    """Where it runs."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of your own."""

    def __post_init__(self) -> None:
        check_labels(self.labels)

    def endpoint(self) -> Endpoint:
        """Return the endpoint."""
        return Endpoint(
            self.address,
            weight=self.weight,
            identity=self.identity,
            server_name=self.server_name,
            protocol=self.protocol,
            tagged_port=self.tagged_port,
            zone=self.zone,
            labels=self.labels,
        )


@dataclass(frozen=True, slots=True)
class EndpointsDocument:
    """The endpoints of one name; each an entry, or just an address."""

    endpoints: tuple[EndpointEntry | Annotated[AnyAddress, Text(parse_address, "10.0.0.1:80")], ...]

    def __post_init__(self) -> None:
        seen: set[AnyAddress] = set()
        for endpoint in self.resolved():
            check_target(endpoint.address)
            if endpoint.address in seen:
                raise InvalidConfiguration(f"{endpoint.address} is there twice: give it a weight instead")
            seen.add(endpoint.address)

    def resolved(self) -> tuple[Endpoint, ...]:
        """Return the endpoints."""
        return tuple(
            entry.endpoint() if isinstance(entry, EndpointEntry) else Endpoint(entry) for entry in self.endpoints
        )


@dataclass(frozen=True, slots=True, repr=False)
class EndpointsFile(Resolve):
    """Endpoints from a JSON or YAML file (YAML: extra ``config``), read again whenever it changes.

    A bad edit, or a file that has gone, changes nothing: the log says which line is wrong, and the last good set stays.

    Args:
        path: The file: ``{"endpoints": ["10.0.0.1:80", {"address": "10.0.0.2:80", "weight": 2}]}``.
        interval: Seconds between looks at it.

    Opening raises:
        InvalidDocument: if the file is bad from the start.
    """

    path: str | Path
    interval: float = 1.0

    def __post_init__(self) -> None:
        if not self.interval > 0:
            raise InvalidConfiguration(f"EndpointsFile(interval={self.interval!r}): give seconds above 0")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Resolution]:
        """Yield the resolution, and watch the file until closed."""
        published = Published()
        watch = FileWatch(self.path, self.interval)
        published.publish(await read_aside(self.path, _endpoints))
        async with open_background() as nursery:
            nursery.start_soon(self._follow, watch, published)
            yield published

    async def _follow(self, watch: FileWatch, published: Published) -> None:
        results = {
            result: current_registry().counter(
                "discovery_updates_total", "What discovery learnt, by source", source="file", result=result
            )
            for result in ("good", "bad")
        }
        while True:
            await watch.wait_changed()
            try:
                endpoints = await read_aside(self.path, _endpoints)
            except InvalidConfiguration as error:
                results["bad"].value += 1
                for line in str(error).splitlines():
                    logger.warning("%s (the endpoints stay as they were)", line)
                continue
            results["good"].value += 1
            logger.info("%s changed: %d endpoints", self.path, len(endpoints))
            published.publish(endpoints)


def _endpoints(path: str | Path) -> tuple[Endpoint, ...]:
    from linkerd_proxy.document.load import load  # whoever reads no file needs no reader

    return load(path, EndpointsDocument).resolved()
