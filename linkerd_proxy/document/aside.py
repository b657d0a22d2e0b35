"""Read a large document in a thread, so that its parsing stops nobody."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

__all__ = ["read_aside"]

T = TypeVar("T")

_SMALL = 1024  # bytes that are parsed in place; own figure: YAML takes 5 us a byte, ten thousand endpoints 2.5 s


async def read_aside(path: str | Path, read: Callable[[str | Path], T]) -> T:
    """Return ``read(path)``, called in a thread if the file is large.

    All else runs on meanwhile, a little slower, since Python's threads take turns every few milliseconds. ``read`` must
    be as good in a thread: it reads and checks, and touches nothing that others share.

    Raises what ``read`` raises. Cancellation returns at once, and what the thread still finds out is dropped.
    """
    try:
        small = os.stat(path).st_size <= _SMALL
    except (OSError, ValueError):  # it says so itself, in words
        small = True
    if small:
        await trio.lowlevel.checkpoint()
        return read(path)
    return await trio.to_thread.run_sync(read, path, abandon_on_cancel=True)
