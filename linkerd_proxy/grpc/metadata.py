"""Metadata: a call's own header and trailer fields, and the deadline among them."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable
from typing import TypeAlias

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.headers import Headers

__all__ = ["Metadata", "encode_timeout", "metadata_fields", "read_metadata", "read_timeout"]

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]
"""Keys and values, in order; those of keys that end in ``-bin`` are bytes, all others are printable ASCII."""

_KEY = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
_RESERVED = frozenset({"content-type", "te", "user-agent", "connection", "host", "content-length"})


def metadata_fields(metadata: Metadata) -> list[tuple[str, str]]:
    """Return metadata as header fields.

    Raises:
        InvalidConfiguration: for a key or a value that gRPC does not allow.
    """
    fields: list[tuple[str, str]] = []
    for key, value in metadata:
        if not _KEY.fullmatch(key) or key.startswith("grpc-") or key in _RESERVED:
            raise InvalidConfiguration(f"{key!r} is no key of metadata: use lower case letters, digits, and _ . -")
        if isinstance(value, bytes) is not key.endswith("-bin"):
            raise InvalidConfiguration(f"metadata {key!r}: bytes need a key that ends in -bin, text needs another")
        if isinstance(value, bytes):
            value = base64.b64encode(value).decode("ascii").rstrip("=")
        elif not _VALUE.fullmatch(value):
            raise InvalidConfiguration(f"metadata {key!r}: the value is no printable ASCII, so use a key with -bin")
        fields.append((key, value))
    return fields


def read_metadata(headers: Headers) -> tuple[tuple[str, str | bytes], ...]:
    """Return the fields that are metadata. Binary values that can't be decoded are left out."""
    found: list[tuple[str, str | bytes]] = []
    for key, value in headers:
        if key.startswith("grpc-") or key in _RESERVED:
            continue
        if not key.endswith("-bin"):
            found.append((key, value))
            continue
        for part in value.split(","):  # a proxy may have joined several (PROTOCOL-HTTP2.md, "Custom-Metadata")
            part = part.strip()
            try:
                found.append((key, base64.b64decode(part + "=" * (-len(part) % 4), validate=True)))
            except (binascii.Error, ValueError):
                continue
    return tuple(found)


# --- deadlines ---------------------------------------------------------------------------------

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")


def encode_timeout(seconds: float) -> str:
    """Return ``grpc-timeout``: at most eight digits and a unit, rounded up."""
    for unit, size in reversed(_UNITS.items()):
        count = math.ceil(max(0.0, seconds) / size)
        if count < 100_000_000:
            return f"{count}{unit}"
    return "99999999H"


def read_timeout(text: str) -> float:
    """Return the seconds of ``grpc-timeout``. Raises ValueError if it is malformed."""
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise ValueError(f"grpc-timeout: {text[:20]!r} is no time")
    return int(found[1]) * _UNITS[found[2]]
