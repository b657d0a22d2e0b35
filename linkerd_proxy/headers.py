"""Header fields: an ordered multimap of lower-case names to values (RFC 9110 section 5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

__all__ = ["Headers", "RawHeaders"]

RawHeaders: TypeAlias = list[tuple[bytes, bytes]]
"""Names in lower case and values without white space at their ends, in wire order."""


class Headers:
    """The header or trailer fields of a message, in the order in which they came.

    Names are lower case whatever the version, as HTTP/2 wants them and as HTTP/1 allows. ``raw`` is the
    list itself, for code that must be fast; everything else takes and gives ``str`` (ISO-8859-1, so that
    every byte survives).

    ``Headers`` does not check what it is given: the codecs check every field in both directions with one
    validator, so a layer that adds a bad value gets a clear error when the message is sent.
    """

    __slots__ = ("raw",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self.raw: RawHeaders = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in fields]

    @classmethod
    def of(cls, raw: RawHeaders) -> Headers:
        """Wrap a list of lower-case byte pairs without copying it."""
        headers = cls.__new__(cls)
        headers.raw = raw
        return headers

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of ``name``, or ``default``."""
        key = name.lower().encode("latin-1")
        for field, value in self.raw:
            if field == key:
                return value.decode("latin-1")
        return default

    def get_all(self, name: str) -> list[str]:
        """Return every value of ``name``, in order."""
        key = name.lower().encode("latin-1")
        return [value.decode("latin-1") for field, value in self.raw if field == key]

    def add(self, name: str, value: str) -> None:
        """Append a field, keeping those of the same name."""
        self.raw.append((name.lower().encode("latin-1"), value.encode("latin-1")))

    def set(self, name: str, value: str) -> None:
        """Put one field in the place of all of that name."""
        self.remove(name)
        self.add(name, value)

    def remove(self, name: str) -> None:
        """Remove every field of that name; none is no error."""
        key = name.lower().encode("latin-1")
        self.raw = [field for field in self.raw if field[0] != key]

    def copy(self) -> Headers:
        """Return an independent copy."""
        return Headers.of(self.raw.copy())

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for name, value in self.raw:
            yield name.decode("latin-1"), value.decode("latin-1")

    def __len__(self) -> int:
        return len(self.raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self.raw == other.raw

    def __repr__(self) -> str:
        return f"Headers({list(self)!r})"
