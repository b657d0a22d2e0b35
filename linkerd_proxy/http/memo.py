"""Memories for what peers say again and again, which what they say only once must not fill."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["Doorkeeper", "remember"]

K = TypeVar("K")
V = TypeVar("V")

_SLOTS = 8192


def remember(memory: dict[K, V], key: K, value: V, size: int) -> None:
    """Put something into a memory of so many; one that is full is forgotten as a whole, which costs nothing to keep."""
    if len(memory) >= size:
        memory.clear()
    memory[key] = value


class Doorkeeper:
    """Lets into a memory only what comes for the second time, by and large.

    Paths, request ids and cookies are seen once. To remember each would push out what is worth remembering, and keep
    megabytes of small objects moving through the processor's caches. This costs 8 KiB once and no object per key: a
    byte of each key's hash in the slot that the hash chooses. Two keys that share a slot forget each other, and one
    new key in 256 is let in at once; neither harms.
    """

    __slots__ = ("_tags",)

    def __init__(self) -> None:
        self._tags = bytearray(_SLOTS)

    def admits(self, mark: int) -> bool:
        """Return whether a key with this hash was seen of late; from now on it was."""
        slot = mark & (_SLOTS - 1)
        tag = (mark >> 13) & 255
        if self._tags[slot] == tag:
            return True
        self._tags[slot] = tag
        return False

    def __repr__(self) -> str:
        return f"<Doorkeeper, {sum(map(bool, self._tags))} of {_SLOTS} slots taken>"
