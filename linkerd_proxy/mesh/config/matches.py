"""The parts of a configuration that say which requests a rule is for, in the words of the Gateway API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from linkerd_proxy.route.match import Exact, GrpcMatch, Match, Prefix, Regex

__all__ = ["GrpcMatchEntry", "HttpMatchEntry", "PathMatchEntry", "ValueMatchEntry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PathMatchEntry:
    """A path (Gateway API: HTTPPathMatch). A bare text is a prefix of whole segments."""

    type: Literal["PathPrefix", "Exact", "RegularExpression"] = "PathPrefix"
    """How it is compared; a regular expression must match the whole path."""
    value: str
    """What with."""

    def __post_init__(self) -> None:
        Match(self.match())

    def match(self) -> Exact | Prefix | Regex:
        """Return the value."""
        if self.type == "RegularExpression":
            return Regex(self.value)
        return Exact(self.value) if self.type == "Exact" else Prefix(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueMatchEntry:
    """The value of a header or a query parameter. A bare text is meant letter by letter."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    """How it is compared; a regular expression must match the whole value."""
    value: str
    """What with."""

    def __post_init__(self) -> None:
        self.match()

    def match(self) -> Exact | Regex:
        """Return the value."""
        return Regex(self.value) if self.type == "RegularExpression" else Exact(self.value)


def _values(entries: Mapping[str, ValueMatchEntry | str]) -> dict[str, str | Exact | Regex]:
    return {name: entry if isinstance(entry, str) else entry.match() for name, entry in entries.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpMatchEntry:
    """Conditions that must all hold (Gateway API: HTTPRouteMatch)."""

    path: PathMatchEntry | str = "/"
    """The path, as the client sent it."""
    headers: Mapping[str, ValueMatchEntry | str] = field(default_factory=dict)
    """Header fields by name."""
    query_params: Mapping[str, ValueMatchEntry | str] = field(default_factory=dict)
    """Query parameters by name."""
    method: str | None = None
    """The method, as ``GET``."""

    def __post_init__(self) -> None:
        self.match()

    def match(self) -> Match:
        """Return the value."""
        path = self.path if isinstance(self.path, str) else self.path.match()
        return Match(path, _values(self.headers), _values(self.query_params), self.method)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcMatchEntry:
    """Conditions on a gRPC call that must all hold (Gateway API: GRPCRouteMatch)."""

    service: str | None = None
    """The full name of the service, as ``pkg.Greeter``."""
    method: str | None = None
    """The name of its method."""
    headers: Mapping[str, ValueMatchEntry | str] = field(default_factory=dict)
    """Metadata by name."""

    def __post_init__(self) -> None:
        self.match()

    def match(self) -> GrpcMatch:
        """Return the value."""
        return GrpcMatch(self.service, self.method, _values(self.headers))
