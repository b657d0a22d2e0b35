"""Hosts and path prefixes, compiled for look-up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic

from typing_extensions import TypeVar

from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["Key", "Table", "parse_key", "split_authority"]

T = TypeVar("T")

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_HOST = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\]")
_PATH = re.compile(r"(?:/[!$&'()*+,\-.0-9:;=@A-Z_a-z~%]*)*")


@dataclass(frozen=True, slots=True)
class Key:
    """What one route matches.

    Args:
        host: In lower case, with a port if the user gave one; empty for any. ``*.`` in front matches every subdomain.
        path: A prefix of whole segments, without a slash at its end; empty for any.
    """

    host: str
    path: str

    def __str__(self) -> str:
        return self.host + (self.path or "/")


def parse_key(text: str) -> Key:
    """Read ``/prefix``, ``host``, ``host/prefix`` or ``*.example.com/prefix``, the host perhaps with a port.

    Raises:
        InvalidConfiguration: naming the key, and what to write instead.
    """
    host, slash, rest = text.partition("/")
    path = slash + rest
    if not text:
        raise InvalidConfiguration("a route's key is empty: write '/' to match every request")
    if not _PATH.fullmatch(path):
        raise InvalidConfiguration(f"{text!r} is no route: {path!r} is no path; write it as clients send it, no query")
    if host:
        host = _host(host.lower(), text)
    return Key(host, path.rstrip("/"))


def _host(host: str, text: str) -> str:
    if host.endswith(":"):
        raise InvalidConfiguration(f"{text!r} is no route: write it without a scheme, and a port after every colon")
    name, port = split_authority(host)
    if port and not (port.isascii() and port.isdigit() and int(port[:6]) <= 65535):
        raise InvalidConfiguration(f"{text!r} is no route: {port!r} is no port; give a number up to 65535, or none")
    if not _HOST.fullmatch(name):
        raise InvalidConfiguration(
            f"{text!r} is no route: {name!r} is no host; write '/prefix', 'host/prefix' or '*.example.com/prefix'"
        )
    return host if port else name


def split_authority(authority: str) -> tuple[str, str]:
    """Return host and port of ``host[:port]``; the port is empty where there is none, IPv6 keeps its brackets."""
    host, colon, port = authority.rpartition(":")
    if not colon or "]" in port:
        return authority, ""
    return host, port


class Table(Generic[T]):
    """Finds the value of the key that matches best.

    Host exact, before the longest wildcard, before any host; and among those of one host the longest path prefix. A
    host with a port in its key comes before the same one without. Where the best host has no matching path, the next
    best is tried, as Linkerd does.
    """

    __slots__ = ("_any", "_hosts", "_keys", "_ports", "_wildcards")

    def __init__(self, routes: Mapping[Key, T]) -> None:
        by_host: dict[str, list[tuple[str, T]]] = {}
        for key, value in routes.items():
            by_host.setdefault(key.host, []).append((key.path, value))
        paths = {host: _Paths(prefixes) for host, prefixes in by_host.items()}
        self._keys = tuple(routes)
        self._any = paths.pop("", None)
        self._hosts = {host: table for host, table in paths.items() if not host.startswith("*")}
        self._wildcards = {host[1:]: table for host, table in paths.items() if host.startswith("*")}
        self._ports = any(split_authority(host)[1] for host in paths)

    def find(self, authority: str, path: str) -> T | None:
        """Return the best match's value, or None.

        Args:
            authority: ``host[:port]`` as the client sent it; may be empty.
            path: The request's path; its query is ignored.
        """
        path = path.partition("?")[0]
        if self._hosts or self._wildcards:
            for table in self._of_host(authority.lower()):
                found = table.find(path)
                if found is not None:
                    return found
        return None if self._any is None else self._any.find(path)

    def _of_host(self, authority: str) -> Iterator[_Paths[T]]:
        name, port = split_authority(authority)
        name = name.removesuffix(".")
        hosts = [f"{name}:{port}", name] if port and self._ports else [name]
        for host in hosts:
            if table := self._hosts.get(host):
                yield table
        if self._wildcards:
            yield from self._of_suffixes(hosts)

    def _of_suffixes(self, hosts: list[str]) -> Iterator[_Paths[T]]:
        dot = hosts[0].find(".", 1)
        while dot > 0:
            for host in hosts:
                if table := self._wildcards.get(host[dot:]):
                    yield table
            dot = hosts[0].find(".", dot + 1)

    def nearest(self, authority: str, path: str) -> Key:
        """Return the key that looks most like a request that none matched, for telling the user."""
        name = split_authority(authority.lower())[0]
        return max(self._keys, key=lambda key: (_alike(key.host[::-1], name[::-1]), _alike(key.path, path)))


def _alike(left: str, right: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


class _Paths(Generic[T]):
    """The path prefixes of one host, the longest first."""

    __slots__ = ("_prefixes", "_root")

    def __init__(self, prefixes: list[tuple[str, T]]) -> None:
        ordered = sorted(prefixes, key=lambda entry: -len(entry[0]))
        self._root = next((value for prefix, value in ordered if not prefix), None)
        self._prefixes = [(prefix, f"{prefix}/", value) for prefix, value in ordered if prefix]

    def find(self, path: str) -> T | None:
        for prefix, slashed, value in self._prefixes:
            if path.startswith(prefix) and (len(path) == len(prefix) or path.startswith(slashed)):
                return value
        return self._root
