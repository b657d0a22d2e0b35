"""What the tries of one exchange tell whoever picks an endpoint: where they have been, and whether another may follow.

A layer that asks more than once (``Retry``, ``Hedge``) opens it around its inner service; a balancer reads it. It
travels with the task, so no layer between has to pass it on.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token

from linkerd_proxy.address import AnyAddress

__all__ = ["Attempt", "close_attempt", "current_attempt", "join_attempt", "open_attempt"]


class Attempt:
    """The try that is under way. All tries of an exchange share one of these."""

    __slots__ = ("number", "paid", "spare", "tried")

    def __init__(self, paid: list[object]) -> None:
        self.number: int = 0
        """How many tries there were before this one."""
        self.spare: bool = False
        """Whether another try can make up for this one, even if the upstream got the request and said nothing."""
        self.tried: tuple[AnyAddress, ...] = ()
        """The endpoints that the tries went to, so that the next one goes elsewhere."""
        self.paid: list[object] = paid
        """The accounts that the exchange has paid into: the layers' that ask more than once, all of them."""

    def __repr__(self) -> str:
        return f"<Attempt {self.number}{', spare' if self.spare else ''}, tried {[str(one) for one in self.tried]}>"


_current: ContextVar[Attempt | None] = ContextVar("linkerd_proxy.attempt", default=None)


current_attempt: Callable[[], Attempt | None] = _current.get
"""Return the try that this task serves, or None if nobody asks twice."""


def open_attempt() -> tuple[Attempt, Token[Attempt | None]]:
    """Return a new one, and what :func:`close_attempt` takes; that must be called in the same task."""
    outer = _current.get()
    attempt = Attempt([] if outer is None else outer.paid)
    return attempt, _current.set(attempt)


def join_attempt() -> tuple[Attempt, Token[Attempt | None] | None]:
    """Return the one that this task serves, or open one: for a layer whose requests are part of an outer one's try."""
    attempt = _current.get()
    return open_attempt() if attempt is None else (attempt, None)


def close_attempt(token: Token[Attempt | None] | None) -> None:
    """Leave the exchange's tries, unless they are another layer's."""
    if token is not None:
        _current.reset(token)
