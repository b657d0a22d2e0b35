"""Types that many parts of a configuration use: durations, addresses, shares, and references to backends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from linkerd_proxy.address import AnyAddress, parse_address
from linkerd_proxy.document.shape import Range, Text
from linkerd_proxy.duration import parse_duration

__all__ = ["BackendRef", "BackendRefs", "Count", "Duration", "Rate", "Share", "Where", "named_backends"]

Duration: TypeAlias = Annotated[float, Text(parse_duration, "10s")]
Where: TypeAlias = Annotated[AnyAddress, Text(parse_address, "10.0.0.1:80", numbers=True)]
Share: TypeAlias = Annotated[float, Range(0, 1)]
Rate: TypeAlias = Annotated[float, Range(0.001, 1e9)]
Count: TypeAlias = Annotated[int, Range(0, 1_000_000_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRef:
    """A backend, and its part of the work (Gateway API: HTTPBackendRef). A bare name is one with the weight 1."""

    name: str
    """Its key among the backends."""
    weight: Annotated[float, Range(0, 1_000_000)] = 1.0
    """Its part, relative to the others'; 0 for none."""


BackendRefs: TypeAlias = tuple[BackendRef | str, ...]


def named_backends(refs: BackendRefs) -> list[tuple[str, float]]:
    """Return the names and weights of references."""
    return [(ref, 1.0) if isinstance(ref, str) else (ref.name, ref.weight) for ref in refs]
