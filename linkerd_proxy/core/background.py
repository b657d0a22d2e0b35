"""Nurseries inside services and layers: background tasks whose groups of exceptions reach nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from linkerd_proxy.errors import ProxyError

__all__ = ["open_background", "unwrapped"]


def unwrapped(error: Exception) -> Exception:
    """Return the one exception that tells most: the first proxy error inside, or the first of all.

    Nurseries wrap what their tasks raise in groups; none of them crosses a service call (design rule 7), so whoever
    opens a nursery inside a service calls this where the nursery ends.
    """
    if not isinstance(error, ExceptionGroup):
        return error
    leaves = [unwrapped(inner) for inner in error.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, ProxyError)), leaves[0])


@asynccontextmanager
async def open_background() -> AsyncIterator[trio.Nursery]:
    """Yield a nursery for an opened layer's own tasks; they are cancelled at the end of the block.

    What the block raises comes out as it is, in no group. Where a task fails while all is cancelled, its error takes
    the place of the cancellation, as that of a ``finally`` would.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        errors, others = group.split(Exception)
        if errors is None or (others is not None and others.split(trio.Cancelled)[1] is not None):
            raise  # a cancellation alone, or Control-C
        error = unwrapped(errors)
        raise error from error.__cause__  # not from None, which would take away why it happened
