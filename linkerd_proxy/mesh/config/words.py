"""Types that many parts of a configuration use: durations, addresses, shares, and references to backends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from linkerd_proxy.address import AnyAddress, parse_address
from linkerd_proxy.document.shape import Duration, Partial, Range, Text
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.io.options import TcpOptions
from linkerd_proxy.metrics.layer import OWN_LABELS
from linkerd_proxy.metrics.registry import check_labels

__all__ = [
    "BackendRef",
    "BackendRefs",
    "Changes",
    "Count",
    "Labels",
    "Rate",
    "Share",
    "TcpOptionsEntry",
    "Where",
    "named_backends",
    "own_labels",
]

Where: TypeAlias = Annotated[AnyAddress, Text(parse_address, "10.0.0.1:80", numbers=True)]
Share: TypeAlias = Annotated[float, Range(0, 1)]
Rate: TypeAlias = Annotated[float, Range(0.001, 1e9)]
Count: TypeAlias = Annotated[int, Range(0, 1_000_000_000)]
Labels: TypeAlias = Mapping[str, str]
Changes: TypeAlias = Annotated[Mapping[str, Any], Partial(Limits)]
"""Those limits of HTTP that are to be others."""


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


def own_labels(labels: Labels) -> None:
    """Check labels that are put beside those of the proxy's own metrics.

    Raises:
        InvalidConfiguration: for a name that none can be, or that the proxy uses.
    """
    check_labels(labels, {*OWN_LABELS, "backend", "listener"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpOptionsEntry:
    """Options of TCP sockets; without them the system's own hold."""

    keepalive: Duration | None = None
    """Silence after which the peer is probed, and the time between probes."""
    user_timeout: Duration | None = None
    """After which data that the peer does not acknowledge breaks the connection (RFC 5482)."""

    def __post_init__(self) -> None:
        self.value()

    def value(self) -> TcpOptions:
        """Return the value."""
        return TcpOptions(self.keepalive, self.user_timeout)
