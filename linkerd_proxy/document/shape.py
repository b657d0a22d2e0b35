"""What a document may look like beyond what Python's types say: for use inside ``Annotated[...]``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, TypeAlias

from linkerd_proxy.duration import parse_duration

__all__ = ["Duration", "Partial", "Range", "Tagged", "Text"]


@dataclass(frozen=True, slots=True)
class Text:
    """A value that is written as text: ``Annotated[AnyAddress, Text(parse_address, "10.0.0.1:80")]``.

    Args:
        read: Makes the value; raises InvalidConfiguration or ValueError if the text is none.
        example: A text that is one.
        numbers: Whether a bare number may stand for the text (``80`` for ``"80"``).
    """

    read: Callable[[str], object]
    example: str
    numbers: bool = False


@dataclass(frozen=True, slots=True)
class Range:
    """A number's bounds, both included."""

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        low, high = (f"{one:.0f}" if float(one).is_integer() else f"{one:g}" for one in (self.low, self.high))
        if self.high == math.inf:
            return f"{low} or more"
        return f"{high} or less" if self.low == -math.inf else f"from {low} to {high}"


@dataclass(frozen=True, slots=True)
class Partial:
    """Some fields of a dataclass, as a mapping of those that are given: ``Annotated[Changes, Partial(Limits)]``.

    What they are to be the rest of is not known yet, so each is checked beside the dataclass's own defaults.
    """

    of: type[object]


@dataclass(frozen=True, slots=True)
class Tagged:
    """One of several dataclasses, told apart by a key: ``Annotated[A | B, Tagged("kind", {"a": A, "b": B})]``."""

    key: str
    choices: Mapping[str, type[object]] = field(hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", MappingProxyType(dict(self.choices)))


Duration: TypeAlias = Annotated[float, Text(parse_duration, "10s")]
"""Seconds, written with a unit."""
