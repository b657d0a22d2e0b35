"""The parts of a configuration that say what is written down about requests."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from linkerd_proxy.document.shape import Range
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.config.kept import Kept
from linkerd_proxy.mesh.open_telemetry import otlp_from_environment
from linkerd_proxy.metrics.accesslog import AccessLog
from linkerd_proxy.metrics.span_export import Otlp
from linkerd_proxy.metrics.tracing import Trace

__all__ = ["AccessLogEntry", "TraceEntry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLogEntry:
    """A line for each request."""

    format: str = "apache"
    """``apache``, ``combined``, ``json``, ``structlog``, or text with fields, as ``{client} {status} {total}``."""
    to: str = "-"
    """A file to append to, or ``-`` for standard output."""
    queue: Annotated[int, Range(1, 1_000_000)] = 10_000
    """Lines that may wait to be written; more are dropped and counted."""

    def __post_init__(self) -> None:
        AccessLog(self.format)

    def layer(self, base: Path) -> AccessLog:
        """Return the layer, its file relative to ``base``."""
        return AccessLog(self.format, self.to if self.to == "-" else str(base / self.to), self.queue)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEntry:
    """Taking part in traces: W3C and B3 in, spans out by OTLP."""

    endpoint: str | None = None
    """The collector, as ``http://otel-collector:4318``; by default what ``OTEL_EXPORTER_OTLP_ENDPOINT`` says."""
    service: str | None = None
    """What this proxy is called there; by default what ``OTEL_SERVICE_NAME`` says."""
    start: Annotated[float, Range(0, 1)] = 0.0
    """The share of requests without a trace for which one is begun."""

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            self._export()

    def layer(self, kept: Kept) -> Trace:
        """Return the layer, whose export is kept."""
        return Trace(kept.keep(self._export()), self.start)

    def _export(self) -> Otlp:
        environment = dict(os.environ)
        if self.endpoint is not None:
            environment.pop("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", None)
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = self.endpoint
        if self.service is not None:
            environment["OTEL_SERVICE_NAME"] = self.service
        export = otlp_from_environment(environment)
        if export is None:
            raise InvalidConfiguration("nothing says where spans go: give endpoint, or set OTEL_EXPORTER_OTLP_ENDPOINT")
        return export
