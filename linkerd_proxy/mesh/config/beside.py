"""What runs beside a proxy that serves by a file, and follows the file too: metrics for a collector, and the tap."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Generic, TypeVar

import trio

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.core.background import open_background, unwrapped
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.admin import serve_admin
from linkerd_proxy.mesh.config.configuration import Configuration
from linkerd_proxy.mesh.config.looking import TapServerEntry
from linkerd_proxy.mesh.config.observing import OtlpMetricsEntry
from linkerd_proxy.mesh.tap_server import tap_server
from linkerd_proxy.mesh.tap_stream import OpenTaps, tap_here
from linkerd_proxy.metrics.registry import Registry
from linkerd_proxy.tls.identity import Identity

__all__ = ["exporting", "tapped"]

logger: logging.Logger = logging.getLogger("linkerd_proxy")

T = TypeVar("T")
R = TypeVar("R")


@asynccontextmanager
async def exporting(configuration: Configuration, registry: Callable[[], Awaitable[Registry]]) -> AsyncIterator[None]:
    """Send metrics where the file says inside the block, and a last time at its end.

    Args:
        configuration: The file, which is followed.
        registry: Fetches what to send.
    """

    def wanted() -> OtlpMetricsEntry | None:
        return configuration.document.otlp_metrics

    @asynccontextmanager
    async def during(entry: OtlpMetricsEntry) -> AsyncIterator[None]:
        async with entry.export(configuration.base).exporting(registry):
            yield

    async with _following(_Following("otlp_metrics", configuration, wanted, during)):
        yield


@asynccontextmanager
async def tapped(configuration: Configuration, taps: OpenTaps = tap_here) -> AsyncIterator[tuple[AnyAddress, ...]]:
    """Serve Linkerd's tap as the file says inside the block, and yield where.

    Whoever watches is cut off when another version says who may, or where.

    Args:
        configuration: The file, which is followed.
        taps: What it looks at, where that is not the traffic of this process.
    """

    def wanted() -> tuple[TapServerEntry, Identity] | None:
        entry, identity = configuration.document.tap_server, configuration.identity
        return None if entry is None or identity is None else (entry, identity)

    @asynccontextmanager
    async def during(told: tuple[TapServerEntry, Identity]) -> AsyncIterator[tuple[AnyAddress, ...]]:
        entry, identity = told
        stack = tap_server(identity, *entry.allowed, taps=taps)
        listeners = await open_listeners(entry.address)
        async with open_background() as nursery:
            await serve_admin(nursery, stack, listeners)
            yield tuple(listener.address for listener in listeners)

    async with _following(_Following("tap_server", configuration, wanted, during)) as addresses:
        yield addresses or ()


@asynccontextmanager
async def _following(following: _Following[T, R]) -> AsyncIterator[R | None]:
    async with open_background() as nursery:
        first = await nursery.start(following.run)
        yield first
        following.stop()
        await following.over.wait()


class _Following(Generic[T, R]):
    """Does something as long as the file wants it, anew whenever it wants it otherwise."""

    def __init__(
        self,
        key: str,
        configuration: Configuration,
        wanted: Callable[[], T | None],
        during: Callable[[T], AbstractAsyncContextManager[R]],
    ) -> None:
        self._key = key
        self._configuration = configuration
        self._wanted = wanted
        self._during = during
        self._stopping = False
        self._waiting = trio.CancelScope()
        self.over = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[R | None]) -> None:
        """Run until stopped. What fails at first is raised; later it is one line in the log, until the next change."""
        begun = done = False
        while not done:
            wanted = self._wanted()
            try:
                if wanted is None:
                    if not begun:
                        task_status.started(None)
                    begun = True
                    await self._wait_other(wanted)
                else:
                    async with self._during(wanted) as made:
                        if not begun:
                            task_status.started(made)
                        begun = True
                        await self._wait_other(wanted)
            except Exception as error:
                if not begun:
                    raise
                logger.error("%s: %s: %s", self._configuration.path, self._key, unwrapped(error))
                await self._wait_other(wanted)
            # A change that came just before the end has its turn yet: a collector that was named gets the last figures.
            done = self._stopping and self._wanted() == wanted
        self.over.set()

    async def _wait_other(self, wanted: T | None) -> None:
        while not self._stopping and self._wanted() == wanted:
            with trio.CancelScope() as self._waiting:
                await self._configuration.changed.wait()

    def stop(self) -> None:
        """End it in good order."""
        self._stopping = True
        self._waiting.cancel()
