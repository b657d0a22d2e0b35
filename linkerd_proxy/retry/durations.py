"""Durations as text: Linkerd's with a unit, and gRPC's ``grpc-timeout``."""

from __future__ import annotations

import re

from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["format_grpc_timeout", "parse_duration", "parse_grpc_timeout"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]{1,9})(ms|[smhd])")

# gRPC over HTTP/2, "Timeout": at most eight digits and a unit.
_GRPC_UNITS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "S": 1.0, "M": 60.0, "H": 3600.0}
_GRPC_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_DIGITS = 10**8


def parse_duration(text: str) -> float:
    """Return the seconds that text means: ``250ms``, ``10s``, ``1m``, ``1h``, ``1d``. The unit is no option.

    Raises:
        InvalidConfiguration: if it means none, or none at all (0).
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise InvalidConfiguration(f"{text!r} is no duration: give a whole number with ms, s, m, h or d, as in 250ms")
    return int(match[1]) * _UNITS[match[2]]


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
