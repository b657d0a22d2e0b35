"""What a rule asks of a request: its path, headers, query parameters and method, or a gRPC service and method."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.route.key import parse_path
from linkerd_proxy.route.untrusted import Compiled, compile_untrusted

__all__ = ["Exact", "GrpcMatch", "Match", "Prefix", "Regex", "Value"]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_RPC_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Exact:
    """Matches one text, letter by letter."""

    value: str

    def __str__(self) -> str:
        return f"={self.value}"


@dataclass(frozen=True, slots=True)
class Prefix:
    """Matches a path and everything below it: ``/api`` matches ``/api`` and ``/api/v1`` but not ``/apis``."""

    value: str

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Regex:
    """Matches the whole text (``fullmatch``) by a regular expression of Python's.

    One with nested repetitions, as ``(a+)+b``, can be made to run for ever by whoever chooses the text. Write none.

    Args:
        value: The pattern.
        trusted: Whether it is the operator's own. One from somebody else is run by RE2 if the package ``google-re2`` is
            there, in linear time, and otherwise refused if it may run for ever.

    Raises:
        InvalidConfiguration: if the pattern can't be read, or is refused.
    """

    value: str
    trusted: bool = True
    pattern: Compiled = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            compiled = re.compile(self.value) if self.trusted else compile_untrusted(self.value)
            object.__setattr__(self, "pattern", compiled)
        except (re.error, OverflowError, RecursionError) as error:
            raise InvalidConfiguration(f"Regex({self.value!r}) can't be read: {error}; correct the pattern") from None

    def __str__(self) -> str:
        return f"~{self.value}"


Value: TypeAlias = str | Exact | Regex
"""What a header or a query parameter must be; a plain text is meant letter by letter."""


def _frozen(match: object, values: Mapping[str, Value], name: str, *, lower: bool) -> Mapping[str, Exact | Regex]:
    """Return the conditions with their names checked and their texts made :class:`Exact`."""
    checked: dict[str, Exact | Regex] = {}
    for key, value in values.items():
        if lower and not _TOKEN.fullmatch(key):
            raise InvalidConfiguration(f"{type(match).__name__}({name}=...): {key!r} is no header's name; correct it")
        checked[key.lower() if lower else key] = Exact(value) if isinstance(value, str) else value
    frozen = MappingProxyType(checked)
    object.__setattr__(match, name, frozen)
    return frozen


def _call(name: str, first: list[str], more: Mapping[str, object]) -> str:
    """Return the call that makes a match, without what is as by default."""
    return f"{name}({', '.join([*first, *(f'{key}={value!r}' for key, value in more.items() if value)])})"


@dataclass(frozen=True, slots=True, repr=False)
class Match:
    """Conditions that must all hold (Gateway API: HTTPRouteMatch).

    Args:
        path: A text is a prefix of whole segments; or :class:`Exact`, :class:`Prefix`, or :class:`Regex`. The path is
            compared as the client sent it, without its query.
        headers: By name, in any case; of a header that occurs several times, one occurrence has to match.
        query: By name, compared decoded; of a parameter that occurs several times, one occurrence has to match.
        method: In its own case, or None for any.

    Raises:
        InvalidConfiguration: for a path that none can be, or a header's name that none can be.
    """

    path: str | Exact | Prefix | Regex = "/"
    headers: Mapping[str, Value] = field(default_factory=lambda: _NONE, hash=False)
    query: Mapping[str, Value] = field(default_factory=lambda: _NONE, hash=False)
    method: str | None = None

    def __post_init__(self) -> None:
        path = Prefix(self.path) if isinstance(self.path, str) else self.path
        if not isinstance(path, Regex):
            text = parse_path(path.value, path.value)
            if not text:
                raise InvalidConfiguration(f"Match({self.path!r}): an empty path; write '/' to match every request")
            path = Prefix(text.rstrip("/") or "/") if isinstance(path, Prefix) else path
        object.__setattr__(self, "path", path)
        _frozen(self, self.headers, "headers", lower=True)
        _frozen(self, self.query, "query", lower=False)
        if self.method is not None and not _TOKEN.fullmatch(self.method):
            raise InvalidConfiguration(f"Match(method={self.method!r}): no method; write for example 'GET'")

    @property
    def prefix(self) -> str | None:
        """The path prefix that a match leaves known, without a slash at its end, or None."""
        return self.path.value.rstrip("/") if isinstance(self.path, Prefix) else None

    def __repr__(self) -> str:
        more = {"headers": dict(self.headers), "query": dict(self.query), "method": self.method}
        return _call("Match", [repr(self.path)], more)

    def __str__(self) -> str:
        words = [self.method or "", str(self.path)]
        words += [f"{name}: {value}" for name, value in self.headers.items()]
        words += [f"?{name}{value}" for name, value in self.query.items()]
        return " ".join(word for word in words if word)


@dataclass(frozen=True, slots=True, repr=False)
class GrpcMatch:
    """Conditions on a gRPC call that must all hold (Gateway API: GRPCRouteMatch).

    Args:
        service: The full name of the service, as ``pkg.Greeter``, or None for any.
        method: The name of its method, or None for any.
        headers: As in :class:`Match`.

    Raises:
        InvalidConfiguration: for a name that none can be.
    """

    service: str | None = None
    method: str | None = None
    headers: Mapping[str, Value] = field(default_factory=lambda: _NONE, hash=False)

    def __post_init__(self) -> None:
        for kind, name in (("service", self.service), ("method", self.method)):
            if name is not None and not _RPC_NAME.fullmatch(name):
                raise InvalidConfiguration(
                    f"GrpcMatch({kind}={name!r}): no {kind} of gRPC's; write 'pkg.Service' or 'Method'"
                )
        _frozen(self, self.headers, "headers", lower=True)

    @property
    def prefix(self) -> str | None:
        """Always None: a gRPC path is matched whole."""
        return None

    def __repr__(self) -> str:
        more = {"service": self.service, "method": self.method, "headers": dict(self.headers)}
        return _call("GrpcMatch", [], more)

    def __str__(self) -> str:
        words = [f"grpc {self.service or '*'}/{self.method or '*'}"]
        words += [f"{name}: {value}" for name, value in self.headers.items()]
        return " ".join(words)
