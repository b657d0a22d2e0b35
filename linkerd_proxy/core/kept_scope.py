"""A cancel scope that a task keeps from one piece of work to the next.

Entering and leaving a ``trio.CancelScope`` costs more than all else that a layer does with a piece of work, and hardly
any is ever cancelled. So a task that serves many, one after the other, keeps a scope: a deadline takes that one, and
leaves it as it was unless it expired.
"""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType
from typing import Protocol, Self

import trio

__all__ = ["KeptScope", "Limit", "kept_scope"]


class Limit(Protocol):
    """What may end a piece of work before its time, as long as it is in."""

    has_expired: bool
    """Whether it has ended it."""
    outer: Limit | None
    """The limit around it, of the same kept scope."""


class KeptScope:
    """A place in a task, with a cancel scope that everything inside runs in.

    Use it with ``with``. Limits come in and go out in turn. The scope is entered when the first comes, and a new one
    after one was cancelled, so that a place without limits costs next to nothing.
    """

    __slots__ = ("_place", "_scope", "_token", "innermost", "limit", "task")

    def __init__(self) -> None:
        self._scope: trio.CancelScope | None = None
        self.limit: Limit | None = None
        """The innermost limit that is in."""

    def __enter__(self) -> Self:
        self.task: trio.lowlevel.Task = trio.lowlevel.current_task()
        """The task inside."""
        self._place = _innermost_of(self.task)
        self.innermost: object = self._place
        """What it has as its innermost scope where limits may come in."""
        self._token: Token[KeptScope | None] = _kept.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        _kept.reset(self._token)
        return None if self._scope is None else self._scope.__exit__(kind, error, traceback)

    def enter(self, limit: Limit) -> None:
        """Let a limit in. Only where the scope is the innermost."""
        limit.outer = self.limit
        self.limit = limit
        if self._scope is None:
            self._renew()

    def leave(
        self,
        limit: Limit,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Let the innermost limit out, and return whether the error is the cancellation that it has caused."""
        self.limit = limit.outer
        if not limit.has_expired or _has_expired(limit.outer):
            return False  # an outer one takes the cancellation, as an outer scope would
        scope = self._scope
        assert scope is not None
        self._scope = None
        self.innermost = self._place
        try:
            scope.__exit__(kind, error, traceback)
        finally:  # it raises what is left of a group
            if self.limit is not None:
                self._renew()
        return scope.cancelled_caught

    def expire(self, due: float) -> None:
        """Cancel what is inside, as a deadline at a time that has passed."""
        assert self._scope is not None
        self._scope.deadline = due  # so that it says why, unlike cancel()

    def _renew(self) -> None:
        self._scope = scope = trio.CancelScope()
        scope.__enter__()
        self.innermost = _innermost_of(self.task)

    def __repr__(self) -> str:
        return f"<KeptScope {'unused' if self._scope is None else 'in use' if self.limit is not None else 'at rest'}>"


_kept: ContextVar[KeptScope | None] = ContextVar("linkerd_proxy.kept_scope", default=None)


def kept_scope() -> KeptScope | None:
    """Return the scope that the running task keeps if no other scope or nursery lies between; otherwise None."""
    kept = _kept.get()
    if kept is None:
        return None
    task = trio.lowlevel.current_task()
    return kept if task is kept.task and _innermost_of(task) is kept.innermost else None


def _has_expired(limit: Limit | None) -> bool:
    while limit is not None:
        if limit.has_expired:
            return True
        limit = limit.outer
    return False


def _innermost_of(task: trio.lowlevel.Task) -> object:
    """Return what stands for the innermost cancel scope or nursery of a task.

    Trio has no name for it in public. Were it to go, every answer would be another one, and each limit would have a
    scope of its own: slower, not different.
    """
    return getattr(task, "_cancel_status", None) or object()
