"""Readiness: how a stack that may have to wait tells those who could send the work elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

import trio

__all__ = ["Ready", "announce_ready", "hearing_ready"]

Ready: TypeAlias = Callable[[], bool]
"""Says whether work that is handed over now would be served without waiting. Cheap; neither blocks nor raises."""


class _Hearing:
    """What was announced in one block of one task."""

    __slots__ = ("heard", "over", "task")

    def __init__(self) -> None:
        self.heard: list[Ready] = []
        self.over = False
        self.task = trio.lowlevel.current_task()


_hearing: ContextVar[_Hearing | None] = ContextVar("linkerd_proxy.hearing_ready", default=None)


def announce_ready(ready: Ready) -> None:
    """Tell whoever opens a stack around this one how to ask whether it is ready; if nobody does, nothing happens.

    A stack that waits for something outside (a balancer for its endpoints) calls this once in ``open()``, before it
    yields. Layers in between need not know of it; a stack that never announces anything counts as always ready.
    """
    hearing = _hearing.get()
    # A task that was started inside the block inherits it, but what it opens later belongs to nobody's branch.
    if hearing is not None and not hearing.over and hearing.task is trio.lowlevel.current_task():
        hearing.heard.append(ready)


@contextmanager
def hearing_ready() -> Iterator[list[Ready]]:
    """Yield the list of what is announced by the stacks that are opened inside the block.

    Announcements go no further than the nearest such block: a stack with branches decides what to announce of itself.
    """
    hearing = _Hearing()
    token = _hearing.set(hearing)
    try:
        yield hearing.heard
    finally:
        hearing.over = True
        _hearing.reset(token)
