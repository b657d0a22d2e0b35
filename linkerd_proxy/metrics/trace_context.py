"""Which trace a request belongs to, as headers say it: W3C, gRPC's binary form, and Zipkin's B3."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass

from linkerd_proxy.headers import Headers, RawHeaders

__all__ = ["TraceContext", "continue_trace", "find_trace"]

# W3C Trace Context, "traceparent": lower case only; version ff is forbidden, and later versions may have more parts.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_B3_TRACE = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}")
_B3_SPAN = re.compile(r"[0-9a-f]{16}")
_SAMPLED = {"1": True, "true": True, "d": True, "0": False, "false": False}
_B3_FIELDS = (b"x-b3-traceid", b"x-b3-spanid", b"x-b3-parentspanid", b"x-b3-sampled", b"x-b3-flags")
_NAMES = frozenset({b"traceparent", b"grpc-trace-bin", b"b3", *_B3_FIELDS})
_GRPC_LENGTH = 29  # version, then three numbered fields: 16 bytes, 8 bytes, 1 byte


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A trace, and the span in it that a request comes from.

    Args:
        trace_id: 128 bits; 0 if the trace only begins.
        span_id: 64 bits; 0 if the trace only begins.
        sampled: Whether its spans are recorded; None if that is left to us.
        state: What vendors say in ``tracestate``.
    """

    trace_id: int
    span_id: int
    sampled: bool | None
    state: str = ""


def find_trace(raw: RawHeaders) -> TraceContext | None:
    """Return the context of a request: of ``traceparent``, or else ``grpc-trace-bin``, or else B3; None without any.

    What is malformed counts as not there. B3 can decide about sampling without naming a trace: its id is 0 then.
    """
    for name, _ in raw:
        if name in _NAMES:
            break
    else:
        return None
    headers = Headers.of(raw)
    for read in (_w3c, _grpc, _b3_single, _b3_fields):
        context = read(headers)
        if context is not None and context.trace_id:
            return context
    sampled = _SAMPLED.get(headers.get("b3") or headers.get("x-b3-sampled") or "")
    return None if sampled is None else TraceContext(0, 0, sampled)


def _w3c(headers: Headers) -> TraceContext | None:
    values = headers.get_all("traceparent")
    match = _TRACEPARENT.fullmatch(values[0]) if len(values) == 1 else None
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]) or not int(match[3], 16):
        return None
    state = ",".join(headers.get_all("tracestate"))
    return TraceContext(int(match[2], 16), int(match[3], 16), bool(int(match[4], 16) & 1), state)


def _grpc(headers: Headers) -> TraceContext | None:
    text = headers.get("grpc-trace-bin")
    if text is None or len(text) > 64:
        return None
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(data) != _GRPC_LENGTH or (data[0], data[1], data[18], data[27]) != (0, 0, 1, 2):
        return None
    return TraceContext(int.from_bytes(data[2:18]), int.from_bytes(data[19:27]), bool(data[28] & 1))


def _b3_single(headers: Headers) -> TraceContext | None:
    parts = (headers.get("b3") or "").split("-")
    if len(parts) < 2:
        return None
    return _b3(parts[0], parts[1], parts[2] if len(parts) > 2 else None)


def _b3_fields(headers: Headers) -> TraceContext | None:
    sampled = "d" if headers.get("x-b3-flags") == "1" else headers.get("x-b3-sampled")
    return _b3(headers.get("x-b3-traceid") or "", headers.get("x-b3-spanid") or "", sampled)


def _b3(trace: str, span: str, sampled: str | None) -> TraceContext | None:
    trace, span = trace.lower(), span.lower()
    if not _B3_TRACE.fullmatch(trace) or not _B3_SPAN.fullmatch(span):
        return None
    return TraceContext(int(trace, 16), int(span, 16), _SAMPLED.get((sampled or "").lower()))


# --- going on ----------------------------------------------------------------------------------


def continue_trace(headers: Headers, context: TraceContext, span_id: int) -> Headers:
    """Return a request's headers as the span ``span_id``, which is recorded, sends them on.

    The trace is told in each form in which the request told one, and as ``traceparent`` if it told none.
    """
    trace = f"{context.trace_id:032x}"
    told = {name for name, _ in headers.raw} & _NAMES
    out = [field for field in headers.raw if field[0] not in _NAMES and field[0] != b"tracestate"]

    def add(name: str, value: str) -> None:
        out.append((name.encode("ascii"), value.encode("latin-1")))

    if b"grpc-trace-bin" in told:
        data = b"\0\0" + context.trace_id.to_bytes(16) + b"\1" + span_id.to_bytes(8) + b"\2\1"
        add("grpc-trace-bin", base64.b64encode(data).decode("ascii").rstrip("="))
    if b"b3" in told:
        parent = f"-{context.span_id:016x}" if context.span_id else ""
        add("b3", f"{trace}-{span_id:016x}-1{parent}")
    if told & {*_B3_FIELDS}:
        _add_b3(add, context, trace, span_id, debug=headers.get("x-b3-flags") == "1")
    if b"traceparent" in told or not told:
        add("traceparent", f"00-{trace}-{span_id:016x}-01")
        if context.state:
            add("tracestate", context.state)
    return Headers.of(out)


def _add_b3(add: Callable[[str, str], None], context: TraceContext, trace: str, span_id: int, *, debug: bool) -> None:
    add("x-b3-traceid", trace)
    add("x-b3-spanid", f"{span_id:016x}")
    if context.span_id:
        add("x-b3-parentspanid", f"{context.span_id:016x}")
    if debug:
        add("x-b3-flags", "1")
    else:
        add("x-b3-sampled", "1")
