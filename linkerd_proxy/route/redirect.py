"""Filters on where a request goes: answer with a redirect, or rewrite host and path."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from linkerd_proxy.address import split_authority
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import BadRequest, InvalidConfiguration
from linkerd_proxy.route.key import check_target, parse_host

__all__ = ["PathFilter", "Redirect", "ReplacePrefix", "Rewrite"]

_PORTS = {"http": "80", "https": "443"}
_STATUSES = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class ReplacePrefix:
    """Puts a path in the place of a prefix, and keeps what follows and the query.

    Args:
        value: The new prefix.
        prefix: The old one, of whole segments; in a rule it is what the rule matched, and need not be given.
    """

    value: str
    prefix: str | None = None

    def __post_init__(self) -> None:
        check_target(self.value, "ReplacePrefix")
        if "?" in self.value:
            raise InvalidConfiguration(f"ReplacePrefix({self.value!r}) keeps the query: leave it out")

    def __call__(self, target: str) -> str:
        """Return the target with the prefix replaced; as it is, where it does not begin so."""
        prefix = (self.prefix or "").rstrip("/")
        path, mark, query = target.partition("?")
        if not path.startswith(prefix) or path[len(prefix) : len(prefix) + 1] not in {"", "/"}:
            return target
        rest = path[len(prefix) :]
        return (self.value.rstrip("/") + rest or "/") + mark + query


@dataclass(frozen=True, slots=True, repr=False)
class PathFilter(Layer[Exchange, Exchange]):
    """A filter that may change the path, and then must know the prefix that a rule matched."""

    path: str | ReplacePrefix | None = None

    def __post_init__(self) -> None:
        if isinstance(self.path, str):
            check_target(self.path, type(self).__name__)

    @property
    def needs_prefix(self) -> bool:
        """Whether it replaces the prefix that was matched."""
        return isinstance(self.path, ReplacePrefix) and self.path.prefix is None

    def matched(self, prefix: str | None) -> PathFilter:
        """Return the filter as it is for what a match with that prefix fits.

        Raises:
            InvalidConfiguration: if it replaces the matched prefix and there is none.
        """
        if not isinstance(self.path, ReplacePrefix) or self.path.prefix is not None:
            return self
        if prefix is None:
            name = type(self).__name__
            raise InvalidConfiguration(f"{name}({self.path!r}) needs a match by prefix: match one, or name the prefix")
        return replace(self, path=replace(self.path, prefix=prefix))

    def _path(self, target: str) -> str:
        path = self.path
        if path is None or not target.startswith("/"):  # OPTIONS * and CONNECT have no path
            return target
        return path(target) if isinstance(path, ReplacePrefix) else path


@dataclass(frozen=True, slots=True, repr=False)
class Redirect(PathFilter):
    """Answers with a redirect, made of the request's own URL with some parts changed (Gateway API: RequestRedirect).

    A request that is where it should be already is let through, so that a redirect to ``https`` can't become a loop.
    A port that is the scheme's own is left out; and where the scheme changes and no port is given, so is the old one.

    Args:
        path: A new path, whose query replaces the old one, or :class:`ReplacePrefix`, which keeps the query.
        scheme: ``http`` or ``https``.
        host: The new host.
        port: The new port.
        status: 301, 302, 303, 307 or 308. (Gateway API: 302; Linkerd answers 301 if nothing else is said.)

    Raises:
        InvalidConfiguration: for a part that none can be.
        BadRequest: (when serving) if the client named no host and the redirect names none either.
    """

    scheme: Literal["http", "https"] | None = None
    host: str | None = None
    port: int | None = None
    status: int = 302

    def __post_init__(self) -> None:
        PathFilter.__post_init__(self)
        if self.status not in _STATUSES:
            raise InvalidConfiguration(f"Redirect(status={self.status!r}): write one of {_STATUSES}")
        if self.scheme not in {None, "http", "https"}:
            raise InvalidConfiguration(f"Redirect(scheme={self.scheme!r}): write 'http' or 'https'")
        if self.port is not None and not 0 < self.port <= 65535:
            raise InvalidConfiguration(f"Redirect(port={self.port!r}): give a number from 1 to 65535")
        _check_host("Redirect", self.host)
        if self.host is not None and split_authority(self.host)[1]:
            raise InvalidConfiguration(f"Redirect(host={self.host!r}): leave out the port, and write port=...")

    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        """Answer with the redirect, or pass on what is there already."""
        request = work.request
        location = self.location(request)
        if location == f"{request.scheme}://{request.authority}{request.path}":
            await inner(work)
        else:
            await work.respond(Response(self.status, [("location", location)]))

    def location(self, request: Request) -> str:
        """Return where a request is sent to."""
        scheme = self.scheme or request.scheme
        old_host, old_port = split_authority(request.authority)
        host = self.host or old_host
        if not host:
            raise BadRequest("the client named no host to redirect to", layer="Redirect", remedy="send a Host field")
        if self.port is not None:
            port = str(self.port)
        else:
            port = "" if self.scheme not in {None, request.scheme} else old_port
        authority = host if port in {"", _PORTS[scheme]} else f"{host}:{port}"
        if self == Redirect(status=self.status):
            authority = request.authority  # nothing is to change, so not even a port that goes without saying
        return f"{scheme}://{authority}{self._path(request.path)}"


@dataclass(frozen=True, slots=True, repr=False)
class Rewrite(PathFilter):
    """Changes host and path of a request before it goes on (Gateway API: URLRewrite).

    Args:
        path: A new path, whose query replaces the old one, or :class:`ReplacePrefix`, which keeps the query.
        host: The new ``host[:port]``.

    Raises:
        InvalidConfiguration: for a part that none can be.
    """

    host: str | None = None

    def __post_init__(self) -> None:
        PathFilter.__post_init__(self)
        _check_host("Rewrite", self.host)

    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        """Pass on the rewritten request."""
        request = work.request
        await inner(work.asking(request.replace(path=self._path(request.path), authority=self.host)))


def _check_host(name: str, host: str | None) -> None:
    if host is not None and (parse_host(host, host).startswith("*") or not host):
        raise InvalidConfiguration(f"{name}(host={host!r}): write one host, without a wildcard")
