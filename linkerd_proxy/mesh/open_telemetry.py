"""Where spans go, as OpenTelemetry's environment variables say it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from linkerd_proxy.address import Address
from linkerd_proxy.core.stack import Layer
from linkerd_proxy.core.work import Dial
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.client import Client
from linkerd_proxy.metrics.span_export import Otlp
from linkerd_proxy.tcp.connect import Connect

__all__ = ["otlp_from_environment"]

_PROTOCOLS = {"", "http/protobuf"}


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
        tls: What stands before ``Connect`` for an ``https`` endpoint.

    Raises:
        InvalidConfiguration: for a variable that can't be read, a protocol other than ``http/protobuf``, and for
            ``https`` without ``tls``. No message repeats a value that may be a secret.
    """
    whole = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    if not (whole or base) or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    name = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" if whole else "OTEL_EXPORTER_OTLP_ENDPOINT"
    protocol = _of_traces(environ, "PROTOCOL")
    if protocol not in _PROTOCOLS:
        raise InvalidConfiguration(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}: give http/protobuf, or nothing")
    scheme, address, authority, path = _endpoint(name, whole or base)
    if scheme == "https" and tls is None:
        raise InvalidConfiguration(f"{name} asks for https: give tls=... to otlp_from_environment, or an http address")
    if not whole:
        path = f"{path.rstrip('/')}/v1/traces"
    connect = Connect(address)
    resource = _pairs("OTEL_RESOURCE_ATTRIBUTES", environ.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    service = environ.get("OTEL_SERVICE_NAME", "").strip() or resource.pop("service.name", "linkerd-proxy")
    resource.pop("service.name", None)
    return Otlp(
        Client() | connect if tls is None or scheme == "http" else Client() | tls | connect,
        authority=authority,
        path=path or "/",
        service=service,
        resource=resource,
        headers=_pairs("OTEL_EXPORTER_OTLP_HEADERS", _of_traces(environ, "HEADERS")),
        timeout=_timeout(_of_traces(environ, "TIMEOUT")),
    )


def _of_traces(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}", "").strip()
    return value or environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()


def _endpoint(name: str, url: str) -> tuple[str, str, str, str]:
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
    address = str(Address(host, port or (443 if parts.scheme == "https" else 80)))
    return parts.scheme, address, parts.netloc, parts.path


def _timeout(text: str) -> float:
    if not text:
        return 10.0
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise InvalidConfiguration(f"OTEL_EXPORTER_OTLP_TIMEOUT is {text!r}: give milliseconds, as in 10000")
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
