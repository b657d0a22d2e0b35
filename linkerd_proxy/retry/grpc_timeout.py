"""``grpc-timeout``: gRPC's durations."""

from __future__ import annotations

import re

__all__ = ["format_grpc_timeout", "parse_grpc_timeout"]

# gRPC over HTTP/2, "Timeout": at most eight digits and a unit.
_GRPC_UNITS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "S": 1.0, "M": 60.0, "H": 3600.0}
_GRPC_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_DIGITS = 10**8


def parse_grpc_timeout(text: str) -> float | None:
    """Return the seconds of a ``grpc-timeout``, or None if it is malformed."""
    match = _GRPC_TIMEOUT.fullmatch(text)
    return None if match is None else int(match[1]) * _GRPC_UNITS[match[2]]


def format_grpc_timeout(seconds: float) -> str:
    """Return a ``grpc-timeout``, rounded down: an upstream that believes in more time than there is works in vain."""
    micros = max(0, int(seconds * 1e6 + 1e-6))
    for unit, size in (("u", 1), ("m", 10**3), ("S", 10**6), ("M", 60 * 10**6), ("H", 3600 * 10**6)):
        if micros // size < _DIGITS:
            return f"{micros // size}{unit}"
    return f"{_DIGITS - 1}H"
