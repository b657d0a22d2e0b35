"""What a document may look like beyond what Python's types say: for use inside ``Annotated[...]``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["Range", "Tagged", "Text"]


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
        if self.high == math.inf:
            return f"{self.low:g} or more"
        return f"{self.high:g} or less" if self.low == -math.inf else f"from {self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Tagged:
    """One of several dataclasses, told apart by a key: ``Annotated[A | B, Tagged("kind", {"a": A, "b": B})]``."""

    key: str
    choices: Mapping[str, type[object]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", MappingProxyType(dict(self.choices)))
