"""What writes down each exchange: an access log, and the spans of traces."""

from __future__ import annotations

from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.open_telemetry import otlp_from_environment
from linkerd_proxy.metrics.accesslog import AccessLog
from linkerd_proxy.metrics.span_export import Otlp
from linkerd_proxy.metrics.tracing import Trace

__all__ = ["noting"]


def noting(inner: Stack[Exchange], access_log: str | None, trace: bool) -> Stack[Exchange]:
    """Return ``inner``, which begins with the metrics, behind what writes exchanges down.

    Args:
        inner: Trace stands outside its metrics, whose exemplars name the trace, and inside the log, whose lines do.
        access_log: The format of a line for each request on standard output, as ``AccessLog`` takes it; None for none.
        trace: Take part in traces, and send spans where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says.

    Raises:
        InvalidConfiguration: if the format or the environment can't be read.
    """
    if trace:
        inner = Trace(_export()) | inner
    return inner if access_log is None else AccessLog(access_log) | inner


def _export() -> Otlp:
    export = otlp_from_environment()
    if export is None:
        raise InvalidConfiguration("no OTEL_EXPORTER_OTLP_ENDPOINT says where spans go: set it, or do not ask to trace")
    return export
