"""The reverse proxy: what ``linkerd-proxy run --listen ... --to ...`` serves."""

from __future__ import annotations

from collections.abc import Sequence

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.detect.detect import Detect
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.h1.codec import CodecName
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.mesh.open_telemetry import otlp_from_environment
from linkerd_proxy.metrics.accesslog import AccessLog
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.metrics.span_export import Otlp
from linkerd_proxy.metrics.tap import Tap
from linkerd_proxy.metrics.tracing import Trace
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.forward import Forward

__all__ = ["reverse_proxy"]


def reverse_proxy(
    targets: Sequence[str | AnyAddress],
    *,
    codec: CodecName = "auto",
    opaque: bool = False,
    access_log: str | None = None,
    trace: bool = False,
) -> Stack[Connection]:
    """Return a stack that detects and proxies HTTP/1, HTTP/2 and raw TCP to the targets.

    Args:
        targets: Where to, as :func:`~linkerd_proxy.address.parse_address` reads them. Several are taken in turn, and
            one that can't be reached is passed over.
        codec: The library that parses HTTP/1: ``auto``, ``h11`` or ``httptools``.
        opaque: Forward bytes without looking at them.
        access_log: The format of a line for each request on standard output, as ``AccessLog`` takes it; None for none.
        trace: Take part in traces, and send spans where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says.

    Raises:
        InvalidConfiguration: if there is no target, if one is no address, and if the format or the environment can't
            be read.
    """
    if not targets:
        raise InvalidConfiguration("a reverse proxy needs at least one target, for example 127.0.0.1:9000")
    upstream = Connect(*targets)
    raw = Metrics[Connection]() | Tap[Connection]() | Forward() | upstream
    if opaque:
        return raw
    # Metrics stands outside Rescue: it counts the answers that clients get, those of our own making too. Trace stands
    # outside Metrics, whose exemplars name the trace, and inside the access log, whose lines do.
    http = Metrics() | Tap() | Rescue() | Client(codec=codec) | upstream
    if trace:
        http = Trace(_export()) | http
    if access_log is not None:
        http = AccessLog(access_log) | http
    return Detect(http=Metrics[Connection]() | Http(codec=codec) | http, otherwise=raw)


def _export() -> Otlp:
    export = otlp_from_environment()
    if export is None:
        raise InvalidConfiguration("no OTEL_EXPORTER_OTLP_ENDPOINT says where spans go: set it, or do not ask to trace")
    return export
