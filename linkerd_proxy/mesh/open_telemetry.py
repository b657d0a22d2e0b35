"""Where spans and metrics go, as OpenTelemetry's environment variables say it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypedDict
from urllib.parse import unquote, urlsplit

from linkerd_proxy.address import Address
from linkerd_proxy.core.stack import Layer, Stack
from linkerd_proxy.core.work import Dial, Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.client import Client
from linkerd_proxy.metrics.metric_export import OtlpMetrics
from linkerd_proxy.metrics.span_export import Otlp
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tls.originate import Originate

__all__ = ["otlp_from_environment", "otlp_metrics_from_environment"]

_PROTOCOLS = {"", "http/protobuf"}
_TEMPORALITIES = {"", "cumulative"}


class _Way(TypedDict):
    """What the environment says of one signal: which collector, and who we are."""

    stack: Stack[Exchange]
    authority: str
    path: str
    service: str
    resource: dict[str, str]
    headers: dict[str, str]
    timeout: float


def otlp_from_environment(
    environ: Mapping[str, str] = os.environ, *, tls: Layer[Dial, Dial] | None = None
) -> Otlp | None:
    """Return the export of spans that the environment asks for, or None if it asks for none.

    ==========================================  ===========================================================
    ``OTEL_EXPORTER_OTLP_ENDPOINT``             the collector, as ``http://otel-collector:4318``; ``/v1/traces``
                                                is added to its path
    ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``      the same for traces alone, path and all
    ``OTEL_EXPORTER_OTLP_HEADERS``              ``name=value`` by commas, percent-encoded, as API keys need it
    ``OTEL_EXPORTER_OTLP_TIMEOUT``              milliseconds for an answer (10,000)
    ``OTEL_SERVICE_NAME``                       what this proxy is called there
    ``OTEL_RESOURCE_ATTRIBUTES``                ``name=value`` by commas, percent-encoded
    ``OTEL_SDK_DISABLED``                       ``true``: no export
    ==========================================  ===========================================================

    Those with ``TRACES_`` after ``OTLP_`` come before those without.

    Args:
        environ: The variables.
        tls: What stands before ``Connect`` for an ``https`` endpoint; by default what trusts the system's authorities
            (extra ``egress``).

    Raises:
        InvalidConfiguration: for a variable that can't be read, and a protocol other than ``http/protobuf``. No message
            repeats a value that may be a secret.
    """
    way = _way(environ, "TRACES", tls)
    if way is None:
        return None
    return Otlp(**way)


def otlp_metrics_from_environment(
    environ: Mapping[str, str] = os.environ, *, tls: Layer[Dial, Dial] | None = None
) -> OtlpMetrics | None:
    """Return the export of metrics that the environment asks for, or None if it asks for none.

    The variables are those of :func:`otlp_from_environment`, with ``METRICS_`` in the place of ``TRACES_`` and
    ``/v1/metrics`` as the path, and these:

    =====================================================  ================================================
    ``OTEL_METRICS_EXPORTER``                              ``otlp``, or ``none`` for no export
    ``OTEL_METRIC_EXPORT_INTERVAL``                        milliseconds between exports (60,000)
    ``OTEL_METRIC_EXPORT_TIMEOUT``                         milliseconds for one, if no timeout of OTLP is given
    ``OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE``  ``cumulative``, the only one there is
    =====================================================  ================================================

    Args:
        environ: The variables.
        tls: What stands before ``Connect`` for an ``https`` endpoint, as for :func:`otlp_from_environment`.

    Raises:
        InvalidConfiguration: for a variable that can't be read, or asks for what there is not. No message repeats a
            value that may be a secret.
    """
    exporter = environ.get("OTEL_METRICS_EXPORTER", "").strip().lower() or "otlp"
    if exporter not in {"otlp", "none"}:
        raise InvalidConfiguration(f"OTEL_METRICS_EXPORTER is {exporter!r}: give otlp, or none")
    way = _way(environ, "METRICS", tls) if exporter == "otlp" else None
    if way is None:
        return None
    name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
    temporality = environ.get(name, "").strip().lower()
    if temporality not in _TEMPORALITIES:
        raise InvalidConfiguration(f"{name} is {temporality!r}: give cumulative, or nothing")
    timeout = environ.get("OTEL_METRIC_EXPORT_TIMEOUT", "").strip()
    if timeout and not _of(environ, "METRICS", "TIMEOUT"):
        way["timeout"] = _milliseconds("OTEL_METRIC_EXPORT_TIMEOUT", timeout, 0)
    return OtlpMetrics(
        **way,
        interval=_milliseconds(
            "OTEL_METRIC_EXPORT_INTERVAL", environ.get("OTEL_METRIC_EXPORT_INTERVAL", "").strip(), 60.0
        ),
    )


def _way(environ: Mapping[str, str], signal: str, tls: Layer[Dial, Dial] | None) -> _Way | None:
    own = f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"
    whole = environ.get(own, "").strip()
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    if not (whole or base) or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    name = own if whole else "OTEL_EXPORTER_OTLP_ENDPOINT"
    protocol = _of(environ, signal, "PROTOCOL")
    if protocol not in _PROTOCOLS:
        raise InvalidConfiguration(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}: give http/protobuf, or nothing")
    scheme, address, authority, path = _endpoint(name, whole or base)
    if scheme == "https" and tls is None:
        tls = Originate(host=address.host)  # by the system's authorities
    if not whole:
        path = f"{path.rstrip('/')}/v1/{signal.lower()}"
    connect = Connect(str(address))
    resource = _pairs("OTEL_RESOURCE_ATTRIBUTES", environ.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    service = environ.get("OTEL_SERVICE_NAME", "").strip() or resource.pop("service.name", "linkerd-proxy")
    resource.pop("service.name", None)
    return {
        "stack": Client() | connect if tls is None or scheme == "http" else Client() | tls | connect,
        "authority": authority,
        "path": path or "/",
        "service": service,
        "resource": resource,
        "headers": _pairs("OTEL_EXPORTER_OTLP_HEADERS", _of(environ, signal, "HEADERS")),
        "timeout": _milliseconds("OTEL_EXPORTER_OTLP_TIMEOUT", _of(environ, signal, "TIMEOUT"), 10.0),
    }


def _of(environ: Mapping[str, str], signal: str, name: str) -> str:
    value = environ.get(f"OTEL_EXPORTER_OTLP_{signal}_{name}", "").strip()
    return value or environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()


def _endpoint(name: str, url: str) -> tuple[str, Address, str, str]:
    """Return the scheme, where to connect, the authority and the path of a URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not host or parts.username is not None or parts.query:
        # The URL may hold a password, which is why it is not repeated.
        raise InvalidConfiguration(f"{name} is no plain http or https URL: give one as http://otel-collector:4318")
    address = Address(host, port or (443 if parts.scheme == "https" else 80))
    return parts.scheme, address, parts.netloc, parts.path


def _milliseconds(name: str, text: str, default: float) -> float:
    """Return as seconds what is written in milliseconds."""
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 40):
        raise InvalidConfiguration(f"{name} is {text!r}: give milliseconds, as in 10000")
    return int(text) / 1000


def _pairs(name: str, text: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise InvalidConfiguration(f"{name} has a part without a name and a value: give name=value, by commas")
        pairs[unquote(key.strip())] = unquote(value.strip())
    return pairs
