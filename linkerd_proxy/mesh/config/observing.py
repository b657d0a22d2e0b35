"""The parts of a configuration that say what is written down about requests."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from linkerd_proxy.document.shape import Duration, Range
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.config.kept import Kept
from linkerd_proxy.mesh.config.words import Share
from linkerd_proxy.mesh.open_telemetry import otlp_from_environment, otlp_metrics_from_environment
from linkerd_proxy.metrics.accesslog import AccessLog
from linkerd_proxy.metrics.collector import Collecting
from linkerd_proxy.metrics.log_record import REDACTED
from linkerd_proxy.metrics.metric_export import OtlpMetrics
from linkerd_proxy.metrics.span_export import Otlp
from linkerd_proxy.metrics.tracing import Trace
from linkerd_proxy.tls.originate import Originate

__all__ = ["AccessLogEntry", "OtlpMetricsEntry", "TraceEntry"]

C = TypeVar("C", bound=Collecting)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessLogEntry:
    """A line for each request."""

    format: str = "apache"
    """``apache``, ``combined``, ``json``, ``structlog``, or text with fields, as ``{client} {status} {total}``."""
    to: str = "-"
    """A file to append to, or ``-`` for standard output."""
    queue: Annotated[int, Range(1, 1_000_000)] = 10_000
    """Lines that may wait to be written; more are dropped and counted."""
    redact: tuple[str, ...] = tuple(sorted(REDACTED))
    """Query parameters whose values are replaced."""

    def __post_init__(self) -> None:
        AccessLog(self.format)

    def layer(self, base: Path) -> AccessLog:
        """Return the layer, its file relative to ``base``."""
        return AccessLog(self.format, self.to if self.to == "-" else str(base / self.to), self.queue, self.redact)


@dataclass(frozen=True, slots=True, kw_only=True)
class _CollectorEntry:
    """A collector that takes OTLP over HTTP, and who tells it."""

    endpoint: str | None = None
    """The collector, as ``http://otel-collector:4318``; by default what ``OTEL_EXPORTER_OTLP_ENDPOINT`` says."""
    roots: str | None = None
    """For ``https``, a file of PEM certificates to trust; by default the system's (extra ``egress``)."""
    service: str | None = None
    """What this proxy is called there; by default what ``OTEL_SERVICE_NAME`` says."""
    resource: Mapping[str, str] = field(default_factory=dict)
    """Further attributes of it, beside those of ``OTEL_RESOURCE_ATTRIBUTES``."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent along, beside those of ``OTEL_EXPORTER_OTLP_HEADERS``, where secrets are better kept."""
    batch: Annotated[int, Range(1, 100_000)] = 1000
    """How many are sent at once, at most."""
    interval: Duration | None = None
    """Between what is sent."""
    timeout: Duration | None = None
    """For an answer; by default what ``OTEL_EXPORTER_OTLP_TIMEOUT`` says, or 10 s."""

    def _environment(self, signal: str) -> dict[str, str]:
        """Return OpenTelemetry's variables as they are with what the document says in their place."""
        environment = dict(os.environ)
        if self.endpoint is not None:
            environment.pop(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", None)
            environment.pop("OTEL_SDK_DISABLED", None)
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = self.endpoint
        if self.service is not None:
            environment["OTEL_SERVICE_NAME"] = self.service
        return environment

    def _tls(self, base: Path) -> Originate:
        return Originate(host="", roots=None if self.roots is None else str(base / self.roots))

    def _with(self, export: C | None, what: str) -> C:
        """Return an export as the document wants it.

        Raises:
            InvalidConfiguration: if there is none.
        """
        if export is None:
            raise InvalidConfiguration(
                f"nothing says where {what} go: give endpoint, or set OTEL_EXPORTER_OTLP_ENDPOINT"
            )
        return replace(
            export,
            resource={**export.resource, **self.resource},
            headers={**export.headers, **self.headers},
            batch=self.batch,
            interval=export.interval if self.interval is None else self.interval,
            timeout=export.timeout if self.timeout is None else self.timeout,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEntry(_CollectorEntry):
    """Taking part in traces: W3C and B3 in, spans out by OTLP."""

    interval: Duration = 10.0
    """After which fewer than a batch are sent."""
    queue: Annotated[int, Range(1, 1_000_000)] = 2048
    """Spans that may wait to be sent; more are dropped and counted."""
    start: Share = 0.0
    """The share of requests without a trace for which one is begun."""
    kind: Literal["server", "client", "internal"] = "server"
    """What this proxy is in the trace: before the application, after it, or neither."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Further attributes of each span."""

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            self._export(Path())

    def layer(self, base: Path, kept: Kept) -> Trace:
        """Return the layer, whose export is kept."""
        return Trace(kept.keep(self._export(base)), self.start, self.kind, self.attributes)

    def _export(self, base: Path) -> Otlp:
        found = otlp_from_environment(self._environment("TRACES"), tls=self._tls(base))
        return replace(self._with(found, "spans"), queue=self.queue)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtlpMetricsEntry(_CollectorEntry):
    """Sending metrics to a collector, all of them every interval, histograms as exact exponential ones."""

    interval: Duration | None = None
    """Between exports; by default what ``OTEL_METRIC_EXPORT_INTERVAL`` says, or 60 s."""

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            self.export(Path())

    def export(self, base: Path) -> OtlpMetrics:
        """Return the export."""
        environment = self._environment("METRICS")
        environment.pop("OTEL_METRICS_EXPORTER", None)  # that there is to be one, the document says
        return self._with(otlp_metrics_from_environment(environment, tls=self._tls(base)), "metrics")
