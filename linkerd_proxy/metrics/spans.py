"""Spans, and how OpenTelemetry writes them: the protocol buffers of OTLP, by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from linkerd_proxy._version import __version__
from linkerd_proxy.protobuf import fixed64, message, text, uint, varint

__all__ = ["Attribute", "Span", "SpanKind", "encode_spans"]

Attribute: TypeAlias = str | int
SpanKind: TypeAlias = Literal["server", "client", "internal"]

# opentelemetry-proto, trace/v1/trace.proto
_KINDS: dict[SpanKind, int] = {"internal": 1, "server": 2, "client": 3}
_ERROR = 2
_SAMPLED = 1
_LONGEST = 1024  # characters of a value that a peer chose; own figure


@dataclass(frozen=True, slots=True)
class Span:
    """One step of a trace, which has ended.

    Args:
        trace_id: 128 bits.
        span_id: 64 bits.
        parent_id: The span that it is part of, or 0.
        name: What was done, of few kinds.
        kind: Whether it served, or asked.
        start: Seconds since the epoch.
        end: Seconds since the epoch.
        attributes: What is known of it, in OpenTelemetry's names.
        failed: Whether it failed.
        state: The trace's ``tracestate``.
    """

    trace_id: int
    span_id: int
    parent_id: int
    name: str
    kind: SpanKind
    start: float
    end: float
    attributes: Mapping[str, Attribute]
    failed: bool = False
    state: str = ""


def encode_spans(spans: Iterable[Span], resource: Mapping[str, str]) -> bytes:
    """Return an ``ExportTraceServiceRequest`` with the spans of one resource."""
    scope = text(1, "linkerd_proxy") + text(2, __version__)
    encoded = b"".join(message(2, _span(span)) for span in spans)
    of_resource = message(1, _attributes(1, resource)) + message(2, message(1, scope) + encoded)
    return message(1, of_resource)


def _span(span: Span) -> bytes:
    return b"".join(
        (
            message(1, span.trace_id.to_bytes(16)),
            message(2, span.span_id.to_bytes(8)),
            text(3, span.state),
            message(4, span.parent_id.to_bytes(8)) if span.parent_id else b"",
            text(5, span.name),
            uint(6, _KINDS[span.kind]),
            fixed64(7, _nanoseconds(span.start)),
            fixed64(8, _nanoseconds(max(span.start, span.end))),
            _attributes(9, span.attributes),
            message(15, uint(3, _ERROR)) if span.failed else b"",
            _FLAGS,
        )
    )


# A field of type fixed32, the only one: number 16, wire type 5.
_FLAGS = varint(16 << 3 | 5) + _SAMPLED.to_bytes(4, "little")


def _nanoseconds(seconds: float) -> int:
    # In two steps, for a float holds no nanoseconds since 1970 and microseconds shall stay what they are.
    return round(seconds * 1e6) * 1000


def _attributes(number: int, attributes: Mapping[str, Attribute]) -> bytes:
    return b"".join(message(number, text(1, name) + message(2, _value(value))) for name, value in attributes.items())


def _value(value: Attribute) -> bytes:
    if isinstance(value, str):
        return message(1, value[:_LONGEST].encode("utf-8", "backslashreplace"))
    return varint(3 << 3) + varint(value & 0xFFFF_FFFF_FFFF_FFFF)  # present even if 0, as a member of a oneof is
