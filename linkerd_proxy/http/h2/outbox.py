"""What is waiting to be written to one connection."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Outbox"]


class Outbox:
    """Bytes in order, joined to one write a scheduler turn, and counted until they have left.

    Args:
        wake: Called when something waits and nobody was told since the last :meth:`take`.
    """

    __slots__ = ("_flying_control", "_flying_other", "_parts", "_wake", "control", "other", "queued", "taken", "unsent")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._parts: list[bytes] = []
        self._wake = wake
        self._flying_control = 0
        self._flying_other = 0
        self.unsent: int = 0
        """Bytes not yet written, those being written included."""
        self.control: int = 0
        """Frames among them that answer control frames."""
        self.other: int = 0
        """Bytes among them that are not DATA: reading stops while there are many, for reading is what makes them."""
        self.queued: int = 0
        """Bytes put here so far."""
        self.taken: int = 0
        """Bytes handed to the transport so far; what is above was surely never sent."""

    def put(self, data: bytes) -> None:
        """Queue anything but DATA."""
        if not self._parts:
            self._wake()
        self._parts.append(data)
        size = len(data)
        self.unsent += size
        self.queued += size
        self.other += size

    def put_data(self, head: bytes, data: bytes) -> None:
        """Queue a DATA frame."""
        if not self._parts:
            self._wake()
        size = len(head) + len(data)
        if data:
            self._parts += (head, data)
        else:
            self._parts.append(head)
        self.unsent += size
        self.queued += size

    def put_control(self, data: bytes) -> None:
        """Queue an answer to a control frame."""
        self.control += 1
        self.put(data)

    def take(self) -> bytes:
        """Return everything that waits; :meth:`sent` must follow when it has left."""
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        self.taken = self.queued
        self._flying_control = self.control
        self._flying_other = self.other
        return data

    def sent(self, size: int) -> None:
        """Count what the last :meth:`take` gave as gone."""
        self.unsent -= size
        self.control -= self._flying_control
        self.other -= self._flying_other
        self._flying_control = self._flying_other = 0

    def __repr__(self) -> str:
        return f"<Outbox of {self.unsent} bytes, {self.control} answers>"
