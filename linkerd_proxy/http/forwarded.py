"""The ``Forwarded`` field, by which proxies tell where a request has been (RFC 7239)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from linkerd_proxy.errors import BadRequest

__all__ = ["Element", "make_element", "parse_forwarded"]

Element: TypeAlias = Mapping[str, str]
"""The parameters that one proxy added, their names in lower case."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PAIR = re.compile(
    r"""[ \t]*(?P<name>[!#$%&'*+\-.^_`|~0-9A-Za-z]+)=
        (?:(?P<token>[!#$%&'*+\-.^_`|~0-9A-Za-z:\[\]/]+)  # the colon and so on are not allowed bare, but are met
        |"(?P<quoted>(?:[^"\\]|\\.)*)")
        [ \t]*(?P<end>[;,]|\Z)""",
    re.VERBOSE,
)
_ESCAPED = re.compile(r"\\(.)")
_EMPTY = re.compile(r"[ \t]*(?:,|\Z)")


def parse_forwarded(values: Iterable[str]) -> list[Element]:
    """Return what the proxies on the way added, the first one's first.

    Args:
        values: Those of all ``Forwarded`` fields of a request, in order.

    Raises:
        BadRequest: for what is not of that grammar, so that nobody can hide an element behind it.
    """
    return [element for value in values for element in _elements(value)]


def _elements(value: str) -> Iterable[Element]:
    at = 0
    while at < len(value):
        empty = _EMPTY.match(value, at)  # RFC 9110 section 5.6.1: lists may have empty members
        if empty is not None:
            at = empty.end()
            continue
        element: dict[str, str] = {}
        more = True
        while more:
            pair = _PAIR.match(value, at)
            name = pair["name"].lower() if pair is not None else ""
            if pair is None or name in element:
                raise BadRequest(f"malformed Forwarded header at {value[at : at + 32]!r}")
            token = pair["token"]
            element[name] = token if token is not None else _ESCAPED.sub(r"\1", pair["quoted"])
            at = pair.end()
            more = pair["end"] == ";"
        yield element


def make_element(**parameters: str) -> str:
    """Return an element; a name that is a word of Python's may end in ``_``."""
    return ";".join(f"{name.rstrip('_')}={_quoted(value)}" for name, value in parameters.items())


def _quoted(value: str) -> str:
    if _TOKEN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
