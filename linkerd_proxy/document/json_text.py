"""JSON with line numbers, from the standard library's scanner of scalars (RFC 8259)."""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

from linkerd_proxy.document.tree import (
    MAX_DEPTH,
    MAX_NODES,
    InvalidDocument,
    Node,
    Problem,
    lines_in,
    whole,
    whole_text,
)

__all__ = ["parse_json"]

_SPACE = re.compile(r"[ \t\r\n]*")


def parse_json(text: str, name: str) -> Node:
    """Parse a JSON document. Raises :exc:`~linkerd_proxy.document.tree.InvalidDocument` at the first thing wrong."""
    scanner = _Scanner(text, name)
    node = scanner.value(0)
    scanner.skip()
    if scanner.at < len(text):
        scanner.refuse("there is more after the end of the document: remove it")
    return node


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _fraction(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is more than a number can be")
    return value


def _said(message: str) -> str:
    """Return the standard library's words, some of which wait for a position."""
    return message.lower().removesuffix(" at").removesuffix(" starting")


class _Scanner:
    __slots__ = ("_counted", "_line", "_name", "_nodes", "_scalars", "at", "text")

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.at = 0
        self._name = name
        self._line = 1
        self._counted = 0
        self._nodes = 0
        self._scalars = json.JSONDecoder(parse_constant=_no_constant, parse_int=whole, parse_float=_fraction)

    @property
    def line(self) -> int:
        self._line += lines_in(self.text, self._counted, self.at)
        self._counted = self.at
        return self._line

    def skip(self) -> None:
        match = _SPACE.match(self.text, self.at)
        assert match is not None
        self.at = match.end()

    def refuse(self, problem: str) -> NoReturn:
        raise InvalidDocument(self._name, [Problem(self.line, "", problem)])

    def next(self) -> str:
        self.skip()
        if self.at >= len(self.text):
            self.refuse("the document ends too early: a bracket is not closed, or nothing is there")
        return self.text[self.at]

    def value(self, depth: int) -> Node:
        first = self.next()
        line = self.line
        self._nodes += 1
        if depth > MAX_DEPTH:
            self.refuse(f"values lie more than {MAX_DEPTH} deep in one another: is it the right file?")
        if self._nodes > MAX_NODES:
            self.refuse(f"there are more than {MAX_NODES} values: is it the right file?")
        if first == "{":
            return self._mapping(line, depth)
        if first == "[":
            return self._list(line, depth)
        return Node(self._scalar(), line)

    def _scalar(self) -> str | int | float | bool | None:
        try:
            value, self.at = self._scalars.raw_decode(self.text, self.at)
        except json.JSONDecodeError as error:
            self.at = max(self.at, min(error.pos, len(self.text)))
            self.refuse(f"this is no JSON ({_said(error.msg)}): look for a missing quote, comma or bracket")
        except ValueError as error:  # NaN, or a number of hundreds of digits
            self.refuse(f"{error}: give a number")
        if isinstance(value, str):
            try:
                return whole_text(value)
            except ValueError as error:
                self.refuse(f"{error}: write the whole character")
        assert value is None or isinstance(value, (int, float))
        return value

    def _mapping(self, line: int, depth: int) -> Node:
        entries: dict[str, Node] = {}
        node = Node(entries, line)
        self.at += 1
        if self.next() == "}":
            self.at += 1
            return node
        while True:
            if self.next() != '"':
                self.refuse("a key must stand in double quotes, and no comma before a closing brace")
            key_line = self.line
            key = self._scalar()
            assert isinstance(key, str)
            if key in entries:
                self.refuse(f"the key {key!r} is there twice: keep one")
            if self.next() != ":":
                self.refuse(f"a colon must follow the key {key!r}")
            self.at += 1
            entries[key] = self.value(depth + 1)
            node.key_lines[key] = key_line
            if self._ends("}"):
                return node

    def _list(self, line: int, depth: int) -> Node:
        items: list[Node] = []
        self.at += 1
        if self.next() == "]":
            self.at += 1
            return Node(items, line)
        while True:
            items.append(self.value(depth + 1))
            if self._ends("]"):
                return Node(items, line)

    def _ends(self, bracket: str) -> bool:
        char = self.next()
        if char not in {",", bracket}:
            self.refuse(f"a comma or {bracket!r} must follow a value")
        self.at += 1
        return char == bracket
