"""A document as it was written: values that remember their lines."""

from __future__ import annotations

import re
from typing import TypeAlias

from linkerd_proxy.errors import InvalidConfiguration

__all__ = [
    "MAX_DEPTH",
    "MAX_NODES",
    "MAX_SIZE",
    "InvalidDocument",
    "Node",
    "Problem",
    "Scalar",
    "lines_in",
    "whole",
    "whole_text",
]

Scalar: TypeAlias = str | int | float | bool | None

MAX_SIZE = 16 << 20
"""Bytes of a document, own figure. Files are an operator's, yet a wrong path must not fill the memory."""
MAX_DEPTH = 64
"""How deep values may lie in one another."""
MAX_NODES = 500_000
"""How many values there may be, those that aliases repeat counted each time ("billion laughs")."""
_MAX_DIGITS = 300
"""Of a whole number: one that has more is no float, and Python does not even write it into a message."""


_LINE_END = re.compile(r"\r\n?|\n")


def lines_in(text: str, start: int, end: int) -> int:
    """Return how many lines end in a part of a text, by CR, LF or both, as YAML and editors count them."""
    return len(_LINE_END.findall(text, start, end))


def whole(digits: str) -> int:
    """Return a whole number. Raises ValueError if it is none, or one that nothing can be measured in."""
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits, 0) if digits[:2].lower() in {"0x", "0o", "0b"} else int(digits)


def whole_text(text: str) -> str:
    """Return a text whose halves of characters, as escapes write them, are joined. Raises ValueError for a lone one."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        raise ValueError("half a character (a lone surrogate, U+D800 to U+DFFF) is no text") from None


class Node:
    """One value: a mapping, a list or a scalar, and the line that it begins on (from 1)."""

    __slots__ = ("key_lines", "line", "value")

    def __init__(self, value: dict[str, Node] | list[Node] | Scalar, line: int) -> None:
        self.value: dict[str, Node] | list[Node] | Scalar = value
        self.line: int = line
        self.key_lines: dict[str, int] = {}
        """For a mapping: where each key stands."""

    @property
    def kind(self) -> str:
        """What it is, in words."""
        match self.value:
            case dict():
                return "a mapping"
            case list():
                return "a list"
            case None:
                return "nothing"
            case bool():
                return f"{'true' if self.value else 'false'}"
            case str():
                text = self.value if len(self.value) <= 40 else self.value[:37] + "..."
                return f"the text {text!r}"
            case _:
                return f"the number {self.value}"

    def plain(self) -> object:
        """Return the value without lines."""
        match self.value:
            case dict():
                return {key: node.plain() for key, node in self.value.items()}
            case list():
                return [node.plain() for node in self.value]
            case _:
                return self.value

    def __repr__(self) -> str:
        return f"<Node {self.kind} on line {self.line}>"


class Problem:
    """One thing that is wrong in a document.

    Args:
        line: Where, from 1; 0 for the document as a whole.
        path: Of which value, as in ``endpoints[0].weight``; empty for the whole.
        text: What is wrong and what to do.
    """

    __slots__ = ("line", "path", "text")

    def __init__(self, line: int, path: str, text: str) -> None:
        self.line: int = line
        self.path: str = path
        self.text: str = text

    def told(self, name: str) -> str:
        """Return one line that names the document, the line and the value."""
        place = f"{name}:{self.line}" if self.line else name
        path = self.path if self.path.isprintable() else ascii(self.path)  # keys are anybody's, a problem is one line
        return f"{place}: {path}: {self.text}" if path else f"{place}: {self.text}"

    def __repr__(self) -> str:
        return f"<Problem {self.told('document')}>"


class InvalidDocument(InvalidConfiguration):
    """A document can't be used. The message has one line a problem, in the order of the document.

    Args:
        name: The document's name, usually its path.
        problems: All that was found.
    """

    def __init__(self, name: str, problems: list[Problem]) -> None:
        self.name: str = name
        self.problems: tuple[Problem, ...] = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(problem.told(name) for problem in self.problems))
