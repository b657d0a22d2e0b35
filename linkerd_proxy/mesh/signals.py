"""Signals: the first one drains, the second one ends at once; a hang-up is no end."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Awaitable, Callable

import trio

from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.drain import Drain

__all__ = ["drain_on_signals", "outlive_hangups", "run_until_signalled"]

logger: logging.Logger = logging.getLogger("linkerd_proxy")


async def drain_on_signals(
    drain: Drain, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> int:
    """Start the drain at the first SIGTERM or SIGINT, and cancel ``scope`` at the second.

    Must run in the main thread. Cancellation gives the signals back to their former handlers.

    Returns:
        The second signal's number.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if drain.draining:
                scope.cancel()
                return number
            drain.start()
    raise AssertionError("the signals never end")


async def outlive_hangups(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Say at each SIGHUP that nothing is read again, where it would otherwise end the process without a drain.

    Whoever rotates logs is used to send one. On a terminal it means that the terminal is gone, and ends the process as
    ever.
    """
    if sys.stdin is not None and sys.stdin.isatty():
        task_status.started()
        return
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            logger.warning(
                "SIGHUP: nothing is read again; a log that was moved away is opened anew by itself, identities are "
                "followed, and --config FILE makes all the rest a file that is read again"
            )


async def run_until_signalled(drain: Drain, serving: Callable[[], Awaitable[None]]) -> int:
    """Run ``serving`` with :func:`drain_on_signals` beside it, as a process that does nothing else.

    Returns:
        The exit status: 0, or 128 and the number of the second signal, which ended it.
    """
    ended_by: list[int] = []
    try:
        async with trio.open_nursery() as nursery:

            async def signals(*, task_status: trio.TaskStatus[None]) -> None:
                ended_by.append(await drain_on_signals(drain, nursery.cancel_scope, task_status=task_status))

            await nursery.start(signals)
            await serving()
            nursery.cancel_scope.cancel()
    except ExceptionGroup as failures:
        raise unwrapped(failures) from None
    return 128 + ended_by[0] if ended_by else 0
