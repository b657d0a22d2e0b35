"""What the admin endpoint looks into: the process that it is in, or the workers that have the traffic."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from linkerd_proxy.core.message import Body
from linkerd_proxy.mesh.log_level import apply_log_level
from linkerd_proxy.mesh.log_stream import LogStream, log_here
from linkerd_proxy.mesh.observed import Observed, observed_here
from linkerd_proxy.mesh.tap_stream import TapReader, TapWish, tap_here
from linkerd_proxy.mesh.tasks import TaskTree
from linkerd_proxy.metrics.registry import Registry, current_registry

__all__ = ["THIS_RUN", "Inside", "ThisRun"]


class Inside(Protocol):
    """Something whose inside can be shown: :class:`ThisRun`, or :class:`~linkerd_proxy.mesh.workers.Workers`."""

    async def metrics(self) -> Registry:
        """Return the metrics."""
        ...

    async def observed(self) -> Observed:
        """Return what the live view shows beside them."""
        ...

    async def tasks(self) -> Body:
        """Return the task tree as text."""
        ...

    def apply_log_level(self, text: str) -> None:
        """Set the levels of the log, as ``/proxy-log-level`` takes them."""
        ...

    def tapped(self, wish: TapWish) -> AbstractAsyncContextManager[TapReader]:
        """Look at live traffic inside the block."""
        ...

    def logged(self, text: str) -> AbstractAsyncContextManager[LogStream]:
        """Take the log's lines inside the block, as directives tell."""
        ...


class ThisRun:
    """The Trio run that asks."""

    async def metrics(self) -> Registry:
        """Return its metrics."""
        return current_registry()

    async def observed(self) -> Observed:
        """Return what the live view shows beside them."""
        return observed_here()

    async def tasks(self) -> Body:
        """Return its task tree as text."""
        return TaskTree()

    def apply_log_level(self, text: str) -> None:
        """Set the levels of the log."""
        apply_log_level(text)

    def tapped(self, wish: TapWish) -> AbstractAsyncContextManager[TapReader]:
        """Look at its traffic inside the block."""
        return tap_here(wish)

    def logged(self, text: str) -> AbstractAsyncContextManager[LogStream]:
        """Take its log's lines inside the block."""
        return log_here(text)

    def __repr__(self) -> str:
        return "ThisRun()"


THIS_RUN: Inside = ThisRun()
"""What is looked into where there are no workers."""
