"""What inner layers tell outer ones about an exchange: where it was routed, who answered it, what it took.

A layer that reports on exchanges (an access log, a trace) opens the notes around its inner service; whoever knows
something worth reporting writes it down there if there are any. They travel with the task, so no layer between has to
pass them on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token

__all__ = ["Notes", "close_notes", "current_notes", "open_notes"]


class Notes:
    """Notes on one exchange. Nothing in them is a peer's choice, but for the trace's id."""

    __slots__ = ("backend", "failure", "over", "retries", "route", "trace_id")

    def __init__(self) -> None:
        self.route: str = ""
        """What matched, in the words of the route's configuration."""
        self.backend: str = ""
        """The address of the endpoint that it was last sent to."""
        self.retries: int = 0
        """How many tries there were beside the first."""
        self.failure: str = ""
        """The code of the last failure that a layer recorded."""
        self.trace_id: str = ""
        """The id of the trace that it is part of, in hexadecimal, if that is sampled; for exemplars and logs."""
        self.over: bool = False
        """Whether the exchange has ended: tasks that it started, as a pool's, may outlive it with its notes."""

    def __repr__(self) -> str:
        parts = [f"{name}={value!r}" for name in self.__slots__ if (value := getattr(self, name))]
        return f"<Notes {' '.join(parts)}>"


_current: ContextVar[Notes | None] = ContextVar("linkerd_proxy.notes", default=None)


current_notes: Callable[[], Notes | None] = _current.get
"""Return the notes on the exchange that this task serves, or None if nobody wants any."""


def open_notes() -> tuple[Notes, Token[Notes | None] | None]:
    """Return notes for the exchange that begins, those of a layer further out if there is one, and how to close them.

    Of :func:`close_notes` in the same task the caller must take care, in a ``finally``.
    """
    notes = _current.get()
    if notes is not None and not notes.over:
        return notes, None
    notes = Notes()
    return notes, _current.set(notes)


def close_notes(notes: Notes, token: Token[Notes | None] | None) -> None:
    """Close them, unless they are another layer's."""
    if token is not None:
        notes.over = True
        _current.reset(token)
