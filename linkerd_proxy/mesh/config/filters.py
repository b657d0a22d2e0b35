"""The parts of a configuration that change requests and answers on their way, in the words of the Gateway API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.document.shape import Duration, Range, Tagged
from linkerd_proxy.errors import GrpcStatus, InvalidConfiguration
from linkerd_proxy.mesh.config.words import Count, Share
from linkerd_proxy.route.filters import RequestHeaderModifier, ResponseHeaderModifier
from linkerd_proxy.route.inject import Inject
from linkerd_proxy.route.mirror import Mirror
from linkerd_proxy.route.redirect import Redirect, ReplacePrefix, Rewrite

__all__ = [
    "FailureEntry",
    "FilterEntry",
    "MirrorEntry",
    "PathModifierEntry",
    "RedirectEntry",
    "RequestHeadersEntry",
    "ResponseHeadersEntry",
    "RewriteEntry",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHeadersEntry:
    """Changes the header fields of requests (Gateway API: RequestHeaderModifier)."""

    set: Mapping[str, str] = field(default_factory=dict)
    """Fields that take the place of all of their name."""
    add: Mapping[str, str] = field(default_factory=dict)
    """Fields that come beside those of their name."""
    remove: tuple[str, ...] = ()
    """Names of fields that go."""

    def __post_init__(self) -> None:
        self.layer()

    def layer(self) -> RequestHeaderModifier:
        """Return the layer."""
        return RequestHeaderModifier(self.set, self.add, self.remove)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHeadersEntry:
    """Changes the header fields of answers (Gateway API: ResponseHeaderModifier)."""

    set: Mapping[str, str] = field(default_factory=dict)
    """Fields that take the place of all of their name."""
    add: Mapping[str, str] = field(default_factory=dict)
    """Fields that come beside those of their name."""
    remove: tuple[str, ...] = ()
    """Names of fields that go."""

    def __post_init__(self) -> None:
        self.layer()

    def layer(self) -> ResponseHeaderModifier:
        """Return the layer."""
        return ResponseHeaderModifier(self.set, self.add, self.remove)


@dataclass(frozen=True, slots=True, kw_only=True)
class PathModifierEntry:
    """A new path (Gateway API: HTTPPathModifier). A bare text replaces the whole path."""

    type: Literal["ReplaceFullPath", "ReplacePrefixMatch"] = "ReplaceFullPath"
    """Whether all of the path is replaced, or the prefix that the rule matched."""
    value: str
    """What it is replaced by."""

    def __post_init__(self) -> None:
        Rewrite(self.modifier())

    def modifier(self) -> str | ReplacePrefix:
        """Return the value."""
        return ReplacePrefix(self.value) if self.type == "ReplacePrefixMatch" else self.value


def _modifier(path: PathModifierEntry | str | None) -> str | ReplacePrefix | None:
    return path.modifier() if isinstance(path, PathModifierEntry) else path


@dataclass(frozen=True, slots=True, kw_only=True)
class RedirectEntry:
    """Answers with a redirect (Gateway API: RequestRedirect)."""

    scheme: Literal["http", "https"] | None = None
    """The new scheme."""
    hostname: str | None = None
    """The new host."""
    port: Annotated[int, Range(1, 65535)] | None = None
    """The new port."""
    path: PathModifierEntry | str | None = None
    """The new path."""
    status_code: Literal[301, 302, 303, 307, 308] = 302
    """The status."""

    def __post_init__(self) -> None:
        self.layer()

    def layer(self) -> Redirect:
        """Return the layer."""
        return Redirect(_modifier(self.path), self.scheme, self.hostname, self.port, self.status_code)


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteEntry:
    """Changes host and path of a request before it goes on (Gateway API: URLRewrite)."""

    hostname: str | None = None
    """The new ``host[:port]``."""
    path: PathModifierEntry | str | None = None
    """The new path."""

    def __post_init__(self) -> None:
        self.layer()

    def layer(self) -> Rewrite:
        """Return the layer."""
        return Rewrite(_modifier(self.path), self.hostname)


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorEntry:
    """Sends a copy of requests to another backend too (Gateway API: RequestMirror)."""

    backend_ref: str
    """Its key among the backends."""
    ratio: Share = 1.0
    """Which part of the requests is copied."""
    in_flight: Annotated[int, Range(1, 100_000)] = 100
    """Copies that may be on their way at once; more are not made."""
    limit: Count = 65536
    """Bytes of a body that are kept for the copy; longer requests go without one."""
    timeout: Duration = 10.0
    """For a copy."""

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise InvalidConfiguration("timeout: 0s lets no copy arrive: give more")

    def layer(self, backend: Stack[Exchange]) -> Mirror:
        """Return the layer."""
        return Mirror(backend, self.ratio, self.in_flight, self.limit, self.timeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureEntry:
    """Makes requests fail or wait on purpose (Linkerd: HttpFailureInjector)."""

    ratio: Share
    """Which part of the requests."""
    status: Annotated[int, Range(400, 599)] | None = None
    """The HTTP status to fail with."""
    grpc_status: str | None = None
    """The gRPC status to fail with, as ``unavailable``."""
    delay: Duration = 0.0
    """To wait before that."""
    message: str = "a failure was injected"
    """What the answer's ``l5d-proxy-error`` says."""

    def __post_init__(self) -> None:
        if not self.message.isprintable():
            raise InvalidConfiguration("message goes into a header field: leave out what can't be printed")
        self.layer()

    def layer(self) -> Inject:
        """Return the layer."""
        return Inject(self.ratio, self.status, _grpc_status(self.grpc_status), self.delay, self.message)


def _grpc_status(name: str | None) -> GrpcStatus | None:
    if name is None:
        return None
    from linkerd_proxy.retry.conditions import parse_grpc

    return GrpcStatus(int(next(iter(parse_grpc(name)))))


FilterEntry: TypeAlias = Annotated[
    RequestHeadersEntry | ResponseHeadersEntry | RedirectEntry | RewriteEntry | MirrorEntry | FailureEntry,
    Tagged(
        "type",
        {
            "RequestHeaderModifier": RequestHeadersEntry,
            "ResponseHeaderModifier": ResponseHeadersEntry,
            "RequestRedirect": RedirectEntry,
            "URLRewrite": RewriteEntry,
            "RequestMirror": MirrorEntry,
            "FailureInjector": FailureEntry,
        },
    ),
]
"""A filter, told apart by its ``type``."""
