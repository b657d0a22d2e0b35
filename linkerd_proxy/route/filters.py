"""Filters on header fields: set, add and remove them on the way in or on the way out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from linkerd_proxy.core.message import Response
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.headers import Headers, RawHeaders

__all__ = ["RequestHeaderModifier", "ResponseHeaderModifier"]

_Fields: TypeAlias = Mapping[str, str]

_NONE: _Fields = MappingProxyType({})
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"(?:[!-~\x80-\xff](?:[ \t]*[!-~\x80-\xff])*)?")

# What the codecs write themselves, so that a message can't be framed in two ways (RFC 9110 sections 6.4 and 7.6).
_FRAMING = frozenset(
    {
        "connection",
        "content-length",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@dataclass(frozen=True, slots=True, repr=False)
class _Modifier(Layer[Exchange, Exchange]):
    """What is changed about the header fields of a message."""

    set: _Fields = field(default_factory=lambda: _NONE, hash=False)
    add: _Fields = field(default_factory=lambda: _NONE, hash=False)
    remove: Sequence[str] = ()
    _gone: frozenset[bytes] = field(init=False, repr=False, compare=False)
    _new: RawHeaders = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "remove", tuple(name.lower() for name in self.remove))
        seen: dict[str, str] = {}
        for how in ("set", "add"):
            fields = {name.lower(): value for name, value in getattr(self, how).items()}
            for name, value in fields.items():
                self._check(name, how, seen)
                if not _VALUE.fullmatch(value):
                    raise InvalidConfiguration(f"{self._name}: {name}: {value!r} is no header's value; correct it")
            object.__setattr__(self, how, MappingProxyType(fields))
        for name in self.remove:
            self._check(name, "remove", seen)
        gone = (name.encode("latin-1") for name in (*self.set, *self.remove))
        object.__setattr__(self, "_gone", frozenset(gone))
        object.__setattr__(self, "_new", Headers((*self.set.items(), *self.add.items())).raw)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _check(self, name: str, how: str, seen: dict[str, str]) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidConfiguration(f"{self._name}: {name!r} is no header's name; correct it")
        twin = name.replace("_", "-")  # some servers read one for the other
        if twin in _FRAMING:
            raise InvalidConfiguration(f"{self._name}: {name} frames the message, which is the proxy's own; leave it")
        if twin == "host":
            raise InvalidConfiguration(f"{self._name}: host is no plain header; use Rewrite(host=...)")
        if twin.startswith("l5d-"):
            raise InvalidConfiguration(f"{self._name}: {name} speaks for the mesh, and nobody else may; leave it")
        if seen.setdefault(name, how) != how:
            raise InvalidConfiguration(f"{self._name}: {name} is in both {seen[name]} and {how}: keep one of them")

    def __repr__(self) -> str:
        shown = [f"{how}={dict(fields)}" for how, fields in (("set", self.set), ("add", self.add)) if fields]
        shown += [f"remove={self.remove}"] if self.remove else []
        return f"{self._name}({', '.join(shown)})"

    def changed(self, headers: Headers) -> Headers:
        """Return the fields with the changes; those that came stay as they are."""
        gone = self._gone
        return Headers.of([pair for pair in headers.raw if pair[0] not in gone] + self._new)


@dataclass(frozen=True, slots=True, repr=False)
class RequestHeaderModifier(_Modifier):
    """Changes the header fields of requests on their way in (Gateway API: RequestHeaderModifier).

    Fields that frame the message, ``host`` and all of the mesh's own ``l5d-*`` can't be changed.

    Args:
        set: Fields that take the place of all of their name.
        add: Fields that come beside those of their name.
        remove: Names of fields that go.

    Raises:
        InvalidConfiguration: for such a field, a name or value that none can be, or a name in two of the three.
    """

    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        """Pass on the request with its fields changed."""
        request = work.request
        await inner(work.asking(request.replace(headers=self.changed(request.headers))))


@dataclass(frozen=True, slots=True, repr=False)
class ResponseHeaderModifier(_Modifier):
    """Changes the header fields of final responses on their way out (Gateway API: ResponseHeaderModifier).

    Args:
        set: Fields that take the place of all of their name.
        add: Fields that come beside those of their name.
        remove: Names of fields that go.

    Raises:
        InvalidConfiguration: as for :class:`RequestHeaderModifier`.
    """

    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        """Pass on the exchange, whose answer will have its fields changed."""
        send = work.respond

        async def respond(response: Response) -> None:
            if response.is_final:
                response = response.replace(headers=self.changed(response.headers))
            await send(response)

        await inner(work.answering(respond))
