"""Hosts and paths as users write them, read and checked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from linkerd_proxy.address import split_authority
from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["Key", "check_target", "parse_host", "parse_key", "parse_path"]

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_HOST = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\]")
_PATH = re.compile(r"(?:/[!$&'()*+,\-.0-9:;=@A-Z_a-z~%]*)*")

_QUERY = re.compile(r"[!$&'()*+,\-./0-9:;=?@A-Z_a-z~%]*")


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
    if not text:
        raise InvalidConfiguration("a route's key is empty: write '/' to match every request")
    path = parse_path(slash + rest, text)
    return Key(parse_host(host, text) if host else "", path.rstrip("/"))


def parse_path(path: str, text: str) -> str:
    """Check a path (or nothing) that a user wrote in ``text``, and return it."""
    if not _PATH.fullmatch(path):
        raise InvalidConfiguration(f"{text!r} is no route: {path!r} is no path; write it as clients send it, no query")
    return path


def check_target(target: str, text: str) -> None:
    """Check a path that a filter puts in the place of another, perhaps with a query.

    Raises:
        InvalidConfiguration: if a request could not be made with it.
    """
    path, _, query = target.partition("?")
    if not path.startswith("/") or not _PATH.fullmatch(path) or not _QUERY.fullmatch(query):
        raise InvalidConfiguration(f"{text}: {target!r} is no path; a path begins with a slash, and is written encoded")


def parse_host(host: str, text: str) -> str:
    """Check a host, perhaps with ``*.`` in front and a port behind, and return it in lower case."""
    host = host.lower()
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
