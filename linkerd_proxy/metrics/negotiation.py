"""Which format a scraper gets: what its ``Accept`` and ``Accept-Encoding`` fields ask for."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["CONTENT_TYPES", "Format", "accepts_gzip", "chosen_format"]

Format: TypeAlias = Literal["text", "openmetrics", "protobuf"]

CONTENT_TYPES: dict[Format, str] = {
    "text": "text/plain; version=0.0.4; charset=utf-8",
    "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
    "protobuf": "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
}
"""The media type of each format: Prometheus' own text, OpenMetrics, and the one that has native histograms."""


def chosen_format(accept: str | None) -> Format:
    """Return what an ``Accept`` field prefers; where it does not care, the format that tells more.

    Prometheus asks for ``protobuf`` where native histograms are switched on.
    """
    wishes = _wishes(_without_other_protobufs(accept or ""))
    plain = wishes.get("text/plain", wishes.get("text/*", wishes.get("*/*", 0.0)))
    openmetrics = wishes.get("application/openmetrics-text", 0.0)
    protobuf = wishes.get("application/vnd.google.protobuf", 0.0)
    if protobuf > 0 and protobuf >= max(plain, openmetrics):
        return "protobuf"
    return "openmetrics" if openmetrics > 0 and openmetrics >= plain else "text"


def _without_other_protobufs(accept: str) -> str:
    # The same media type has encodings for people (text, compact-text), and may carry other messages.
    return ",".join(
        item
        for item in accept.split(",")
        if "vnd.google.protobuf" not in item.lower()
        or ("encoding=delimited" in item.lower() and "io.prometheus.client.metricfamily" in item.lower())
    )


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether an ``Accept-Encoding`` field allows gzip (RFC 9110 section 12.5.3)."""
    wishes = _wishes(accept_encoding or "")
    return wishes.get("gzip", wishes.get("x-gzip", wishes.get("*", 0.0))) > 0


def _wishes(field: str) -> dict[str, float]:
    """Return the weight of each item of a list such as ``gzip;q=0.5, *`` (RFC 9110 section 12.4.2)."""
    wishes: dict[str, float] = {}
    for item in field.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weight = next((part[2:].strip() for part in parameters if part.startswith("q=")), "1")
        try:
            wishes[name] = max(wishes.get(name, 0.0), min(1.0, float(weight)))
        except ValueError:  # a weight that makes no sense is no wish
            wishes.setdefault(name, 0.0)
    return wishes
