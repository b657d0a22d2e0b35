"""Many matches, compiled: the one that matches best is found by its host and path, not by trying them all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeAlias
from urllib.parse import parse_qsl

from typing_extensions import TypeVar

from linkerd_proxy.address import split_authority
from linkerd_proxy.core.message import Request
from linkerd_proxy.route.match import Exact, GrpcMatch, Match, Prefix, Regex

__all__ = ["AnyMatch", "Table"]

T = TypeVar("T")

AnyMatch: TypeAlias = Match | GrpcMatch
_Test: TypeAlias = Callable[[str], object]
_Rank: TypeAlias = tuple[int, int, int, int, bool, int]

# The kinds of path matches, the most telling first. One that takes any path says nothing about it, so it comes last;
# otherwise no pattern beside a catch-all could ever win.
_EXACT, _PREFIX, _METHOD_ONLY, _REGEX, _ANY = range(5)


class _Facts:
    """What is asked about one request, found out when it is first asked."""

    __slots__ = ("_headers", "_query", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self._headers: dict[bytes, list[str]] | None = None
        self._query: dict[str, list[str]] | None = None

    def headers(self) -> dict[bytes, list[str]]:
        found = self._headers
        if found is None:
            found = self._headers = {}
            for name, value in self.request.headers.raw:
                found.setdefault(name, []).append(value.decode("latin-1"))
        return found

    def query(self) -> dict[str, list[str]]:
        found = self._query
        if found is None:
            found = self._query = {}
            for name, value in parse_qsl(self.request.path.partition("?")[2], keep_blank_values=True):
                found.setdefault(name, []).append(value)
        return found


_NO_FACTS = _Facts(Request())  # for a table where nobody asks


def _test(value: object) -> _Test:
    if isinstance(value, Regex):
        return value.pattern.fullmatch
    assert isinstance(value, Exact)
    return value.value.__eq__


def _holds(test: _Test, values: list[str] | None) -> bool:
    return values is not None and any(map(test, values))


class _Entry(Generic[T]):
    """One match and its value: what is left to check once host and path are found."""

    __slots__ = ("free", "grpc", "headers", "key", "method", "path", "query", "rank", "value")

    def __init__(self, match: AnyMatch, order: int, value: T) -> None:
        kind, length, self.path = _path_of(match)
        self.value = value
        self.headers = [(name.encode("latin-1"), _test(wanted)) for name, wanted in match.headers.items()]
        exact = ((n.encode("latin-1"), v.value) for n, v in match.headers.items() if isinstance(v, Exact))
        self.key = next(exact, None)
        """A header that must be one text, for looking the entry up."""
        self.grpc = isinstance(match, GrpcMatch)
        queries = match.query if isinstance(match, Match) else {}
        self.query = [(name, _test(wanted)) for name, wanted in queries.items()]
        self.method = match.method if isinstance(match, Match) else "POST"
        # The order of Linkerd's for equal paths: header matches, query matches, method, and the earlier one.
        self.rank: _Rank = (kind, -length, -len(self.headers), -len(self.query), self.method is None, order)
        self.free = not (self.headers or self.query or self.method or self.path)

    def holds(self, path: str, facts: _Facts) -> bool:
        """Whether everything but host and indexed path matches."""
        if self.method is not None and facts.request.method != self.method:
            return False
        if self.path is not None and not self.path(path):
            return False
        if self.grpc and not facts.request.is_grpc:
            return False
        if self.headers:
            headers = facts.headers()
            for name, test in self.headers:
                if not _holds(test, headers.get(name)):
                    return False
        return all(_holds(test, facts.query().get(name)) for name, test in self.query)


def _path_of(match: AnyMatch) -> tuple[int, int, _Test | None]:
    """Return the kind of a match's path, how much of it is given, and what the index can't check."""
    if isinstance(match, GrpcMatch):
        return _rpc_of(match)
    path = match.path
    if isinstance(path, Regex):
        return _REGEX, 0, path.pattern.fullmatch
    assert not isinstance(path, str)
    if isinstance(path, Exact):
        return _EXACT, len(path.value), None
    return (_ANY, 0, None) if path.value == "/" else (_PREFIX, len(path.value), None)


_TWO_SEGMENTS: _Test = re.compile("/[^/]+/[^/]+").fullmatch


def _rpc_of(match: GrpcMatch) -> tuple[int, int, _Test | None]:
    if match.service and match.method:
        return _EXACT, len(match.service) + len(match.method), None
    if match.service:
        return _PREFIX, len(match.service) + 1, _TWO_SEGMENTS
    if match.method:
        return _METHOD_ONLY, len(match.method), re.compile(f"/[^/]+/{re.escape(match.method)}").fullmatch
    return _ANY, 0, _TWO_SEGMENTS


def _indexed(match: AnyMatch) -> str:
    """Return the path under which an exact or prefix match is found."""
    if isinstance(match, GrpcMatch):
        return "/" + "/".join(name for name in (match.service, match.method) if name)
    assert isinstance(match.path, (Exact, Prefix))
    return match.path.value


class _Bucket(Generic[T]):
    """Matches between which host and indexed path do not decide, the best first."""

    __slots__ = ("_by_header", "_entries", "_others")

    def __init__(self) -> None:
        self._entries: list[_Entry[T]] = []
        self._others: list[int] = []
        self._by_header: dict[bytes, dict[str, list[int]]] = {}

    def add(self, entry: _Entry[T]) -> None:
        """Add one that comes after those there are."""
        index = len(self._entries)
        self._entries.append(entry)
        if entry.key is None:
            self._others.append(index)
        else:
            name, value = entry.key
            self._by_header.setdefault(name, {}).setdefault(value, []).append(index)

    @property
    def asks(self) -> bool:
        """Whether more than host and path decides."""
        return bool(self._by_header) or any(not entry.free for entry in self._entries[:1])

    def first(self, path: str, facts: _Facts) -> _Entry[T] | None:
        """Return the first that matches. Those that want a header to be one text are found by that text."""
        entries = self._entries
        for index in self._candidates(facts) if self._by_header else self._others:
            entry = entries[index]
            if entry.free or entry.holds(path, facts):
                return entry
        return None

    def _candidates(self, facts: _Facts) -> list[int]:
        headers = facts.headers()
        found: list[int] = []
        for name, by_value in self._by_header.items():
            for value in headers.get(name, ()):
                found += by_value.get(value, ())
        return sorted([*found, *self._others]) if found else self._others


class _Host(Generic[T]):
    """All matches of one host."""

    __slots__ = ("_any", "_depth", "_exact", "_others", "_prefixes")

    def __init__(self, entries: list[tuple[AnyMatch, _Entry[T]]]) -> None:
        self._exact: dict[str, _Bucket[T]] = {}
        self._prefixes: dict[str, _Bucket[T]] = {}
        self._others: _Bucket[T] = _Bucket()
        self._any: _Bucket[T] = _Bucket()
        for match, entry in sorted(entries, key=lambda pair: pair[1].rank):
            kind = entry.rank[0]
            if kind == _EXACT:
                self._exact.setdefault(_indexed(match), _Bucket()).add(entry)
            elif kind == _PREFIX:
                self._prefixes.setdefault(_indexed(match), _Bucket()).add(entry)
            else:
                (self._any if kind == _ANY else self._others).add(entry)
        self._depth = max((prefix.count("/") for prefix in self._prefixes), default=0)

    @property
    def asks(self) -> bool:
        """Whether some of them ask for more than a path."""
        buckets = (*self._exact.values(), *self._prefixes.values(), self._others, self._any)
        return any(bucket.asks for bucket in buckets)

    def find(self, path: str, facts: _Facts) -> T | None:
        """Return the value of the best match, or None."""
        if (bucket := self._exact.get(path)) and (found := bucket.first(path, facts)):
            return found.value
        if self._prefixes and (found := self._longest(path, facts)):
            return found.value
        found = self._others.first(path, facts) or self._any.first(path, facts)
        return None if found is None else found.value

    def _longest(self, path: str, facts: _Facts) -> _Entry[T] | None:
        """Return the match of the longest prefix, of no more segments than the deepest prefix has."""
        prefixes = self._prefixes
        if (bucket := prefixes.get(path)) and (found := bucket.first(path, facts)):
            return found
        end = len(path)
        if path.count("/") > self._depth + 1:  # of one segment more than that, the search itself drops the last
            end = 0
            for _ in range(self._depth):
                end = path.find("/", end + 1)
            end += 1
        while (end := path.rfind("/", 1, end)) > 0:
            if (bucket := prefixes.get(path[:end])) and (found := bucket.first(path, facts)):
                return found
        return None


class Table(Generic[T]):
    """Finds the value of the match that fits a request best.

    Host exact, before the longest wildcard, before any host; then path exact, before the longest prefix, before a
    regular expression, before any path; then more header matches, more query matches, one with a method, and the
    earlier one. A host with a port comes before the same one without. Where the best host has no match, the next best
    is tried, as Linkerd does.

    Args:
        matches: Hosts (empty for any), what to match there, and the value; the earlier one wins among equals.
    """

    __slots__ = ("_any", "_asks", "_hosts", "_names", "_ports", "_wildcards")

    def __init__(self, matches: Iterable[tuple[str, AnyMatch, T]]) -> None:
        by_host: dict[str, list[tuple[AnyMatch, _Entry[T]]]] = {}
        names: list[tuple[str, str]] = []
        for order, (host, match, value) in enumerate(matches):
            by_host.setdefault(host, []).append((match, _Entry(match, order, value)))
            names.append((host, str(match.path) if isinstance(match, Match) else _indexed(match)))
        hosts = {host: _Host(entries) for host, entries in by_host.items()}
        self._asks = any(table.asks for table in hosts.values())
        self._names = tuple(names)
        self._any = hosts.pop("", None)
        self._hosts = {host: table for host, table in hosts.items() if not host.startswith("*")}
        self._wildcards = {host[1:]: table for host, table in hosts.items() if host.startswith("*")}
        self._ports = any(split_authority(host)[1] for host in hosts)

    def find(self, request: Request) -> T | None:
        """Return the best match's value, or None. Takes a few microseconds, however many matches there are."""
        facts = _Facts(request) if self._asks else _NO_FACTS
        path = request.path
        if "?" in path:
            path = path.partition("?")[0]
        if self._hosts or self._wildcards:
            for table in self._of_host(request.authority.lower()):
                found = table.find(path, facts)
                if found is not None:
                    return found
        return None if self._any is None else self._any.find(path, facts)

    def _of_host(self, authority: str) -> Iterator[_Host[T]]:
        name, port = split_authority(authority)
        name = name.removesuffix(".")
        hosts = [f"{name}:{port}", name] if port and self._ports else [name]
        for host in hosts:
            if table := self._hosts.get(host):
                yield table
        if self._wildcards:
            yield from self._of_suffixes(hosts)

    def _of_suffixes(self, hosts: list[str]) -> Iterator[_Host[T]]:
        dot = hosts[0].find(".", 1)
        while dot > 0:
            for host in hosts:
                if table := self._wildcards.get(host[dot:]):
                    yield table
            dot = hosts[0].find(".", dot + 1)

    def nearest(self, authority: str, path: str) -> str | None:
        """Return the host and path that look most like a request that none matched, for telling the user."""
        name = split_authority(authority.lower())[0]
        if not self._names:
            return None
        host, prefix = max(self._names, key=lambda key: (_alike(key[0][::-1], name[::-1]), _alike(key[1], path)))
        return host + prefix


def _alike(left: str, right: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
