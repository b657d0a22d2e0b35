"""Parking a task until somebody wakes it: a third of what an event costs."""

from __future__ import annotations

import trio

__all__ = ["Waiter"]


class Waiter:
    """A place where at most one task waits. To wake when nobody waits does nothing, so waiters check in a loop."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Wait for :meth:`wake`."""
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> bool:
        """Wake the task that waits, and return whether there was one."""
        if self._task is None:
            return False
        task, self._task = self._task, None
        trio.lowlevel.reschedule(task)
        return True
