"""Signals: the first one drains, the second one ends at once."""

from __future__ import annotations

import signal

import trio

from linkerd_proxy.core.drain import Drain

__all__ = ["drain_on_signals"]


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
