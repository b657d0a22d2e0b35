"""Durations as people write them: a number and a unit."""

from __future__ import annotations

import re

from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["parse_duration"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|[smhd])")


def parse_duration(text: str) -> float:
    """Return the seconds of ``90s``, ``1.5m``, ``250ms``, ``1h`` or ``1d``; as in Linkerd only 0 may go without a unit.

    Raises:
        InvalidConfiguration: if it is none.
    """
    if text.strip() == "0":
        return 0.0
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise InvalidConfiguration(f"{text!r} is no duration: give a number with a unit (ms, s, m, h, d), as in 30s")
    return float(found[1]) * _UNITS[found[2]]
