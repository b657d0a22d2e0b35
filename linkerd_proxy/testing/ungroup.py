"""Blocks that hold a nursery, and yet raise what a test means to catch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

__all__ = ["open_plain_nursery"]


@asynccontextmanager
async def open_plain_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery whose group, if it holds one exception only, is replaced by that one."""
    lone: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        lone = group
        while isinstance(lone, BaseExceptionGroup):
            if len(lone.exceptions) != 1:
                raise
            lone = lone.exceptions[0]
    if lone is not None:
        raise lone
