"""A proxy that serves by a file, and by the file's next version when it changes."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

import trio

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.core.background import open_background
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Connection
from linkerd_proxy.document.aside import read_aside
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.config.build import build
from linkerd_proxy.mesh.config.document import ProxyDocument
from linkerd_proxy.mesh.config.kept import Kept
from linkerd_proxy.mesh.config.read import read_config
from linkerd_proxy.mesh.readiness import follow_identity
from linkerd_proxy.mesh.swap import Swap
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.tls.identity import Identity

__all__ = ["Bound", "Configuration", "Configured", "Listening", "Shown"]

logger: logging.Logger = logging.getLogger("linkerd_proxy.config")

Bound: TypeAlias = Mapping[str, Sequence[AnyAddress]]
"""Where listeners really listen, by their names in the file."""

_NOWHERE: Bound = MappingProxyType({})


class Listening(Protocol):
    """Who has the listeners of a proxy."""

    def changing_to(self, document: ProxyDocument) -> AbstractAsyncContextManager[Bound]:
        """Open what the document has more; close what it has less, if the block ends well. Yield where all are."""
        ...


class _Fixed:
    """Listeners that somebody else has opened once and for all."""

    def __init__(self, document: ProxyDocument, bound: Bound) -> None:
        self._addresses = _addresses(document)
        self._bound = bound

    @asynccontextmanager
    async def changing_to(self, document: ProxyDocument) -> AsyncIterator[Bound]:
        if _addresses(document) != self._addresses:
            raise InvalidConfiguration("the listeners' names or addresses have changed: that takes a restart here")
        yield self._bound


def _addresses(document: ProxyDocument) -> dict[str, tuple[AnyAddress, bool]]:
    return {name: (entry.address, entry.original_dst) for name, entry in document.listeners.items()}


class Configuration:
    """The file of a proxy, and the stack that serves by it: ``swap``, to be opened by whoever serves.

    Args:
        path: The file, YAML or JSON.
        document: What was read of it; by default it is read now.
        bound: Where the listeners really listen, if that is not what the file says.
        listening: Who opens and closes listeners; by default they must stay the same.
        grace: Seconds for what drains, in the place of what the file says.
        interval: Seconds between looks at the file.

    Raises:
        InvalidConfiguration: if the file can't be read, or does not describe a proxy.
    """

    def __init__(
        self,
        path: str | Path,
        document: ProxyDocument | None = None,
        *,
        bound: Bound = _NOWHERE,
        listening: Listening | None = None,
        grace: float | None = None,
        interval: float = 1.0,
    ) -> None:
        self.path: Path = Path(path)
        self._grace = grace
        self.document: ProxyDocument = self._with_grace(read_config(path) if document is None else document)
        """What is served by."""
        self.reloads: int = 0
        """How often another version was taken."""
        self.problem: str = ""
        """What is wrong with the newest version, if it was refused."""
        self._kept = Kept()
        self._listening = _Fixed(self.document, bound) if listening is None else listening
        self._interval = interval
        stack = build(self.document, base=self.path.parent, bound=bound, kept=self._kept)
        self.swap: Swap[Connection] = Swap(stack, grace=self.document.grace)
        self._lock = trio.Lock()
        self._identity = self._kept_identity()
        self._changed = trio.Event()
        self._seen = self._look()

    @property
    def base(self) -> Path:
        """The directory that the document's files are relative to."""
        return self.path.parent

    @property
    def identity(self) -> Identity | None:
        """What the proxy proves to its mesh now, if it can: the object that the stack names."""
        return self._identity

    @property
    def changed(self) -> trio.Event:
        """Set when another version is taken; then there is another event for the next."""
        return self._changed

    async def reload(self) -> bool:
        """Read the file, and serve by what it says now; return whether that went well.

        The new stack is opened before anything is changed, and the old one drains. A file that is bad changes nothing:
        it is one line in the log, and counted.
        """
        async with self._lock:
            self._seen = self._look()
            try:
                document = self._with_grace(await read_aside(self.path, read_config))
                kept = Kept(self._kept)
                async with self._listening.changing_to(document) as bound:
                    stack = build(document, base=self.path.parent, bound=bound, kept=kept)
                    self.swap.grace = document.grace
                    await self.swap.replace(stack)
            except Exception as error:  # whatever keeps the new stack from opening, the old one serves on
                self._refused(error)
                return False
            self._tell_restarts(document)
            self.document, self._kept = document, kept
            self._identity = self._kept_identity()
            changed, self._changed = self._changed, trio.Event()
            changed.set()
            self._seen = [(path, dict(self._seen).get(path, _sign(path))) for path in self._files()]
            self.reloads += 1
            self.problem = ""
            self._count("good")
            logger.info("%s was read again: it is served by from now on", self.path)
            return True

    def _with_grace(self, document: ProxyDocument) -> ProxyDocument:
        return document if self._grace is None else replace(document, grace=self._grace)

    def _kept_identity(self) -> Identity | None:
        entry = self.document.identity
        return None if entry is None else self._kept.keep(entry.identity(self.path.parent))

    def _refused(self, error: Exception) -> None:
        self.swap.grace = self.document.grace
        self.problem = str(error) or type(error).__name__
        first, *more = self.problem.splitlines()
        rest = f" (and {len(more)} more: linkerd-proxy check {self.path})" if more else ""
        logger.error("%s is not taken, nothing has changed: %s%s", self.path, first, rest)
        self._count("bad")

    def _count(self, result: str) -> None:
        registry = current_registry()
        registry.counter("config_reloads_total", "Changes of the configuration's file", result=result).value += 1
        gauge = registry.gauge("config_last_reload_successful", "Whether the newest version of the file is served by")
        gauge.value = float(result == "good")

    def _tell_restarts(self, document: ProxyDocument) -> None:
        for name in ("admin", "workers", "log"):
            if getattr(document, name) != getattr(self.document, name):
                logger.warning("%s: another %s takes a restart, all else is served by now", self.path, name)

    async def follow_identity(self, tell: Callable[[bool], None]) -> None:
        """Tell whether the proxy can prove who it is, at once and at every change, for ever; True if it need not."""
        while True:
            changed = self._changed
            if self._identity is None:
                tell(True)
                await changed.wait()
                continue
            async with open_background() as nursery:
                nursery.start_soon(follow_identity, self._identity, tell)
                await changed.wait()

    async def follow(self) -> None:
        """Read the file again whenever it, or a certificate that it names, has changed; for ever.

        A change is taken when all of them have been left alone from one look to the next.
        """
        before = self._seen
        while True:
            await trio.sleep(self._interval)
            now = self._look()
            if now != self._seen and now == before:
                await self.reload()
            before = now

    def _files(self) -> list[Path]:
        found = [self.path]
        for entry in self.document.listeners.values():
            if entry.tls is not None and entry.tls.certificate is not None and entry.tls.key is not None:
                found += [self.path.parent / entry.tls.certificate, self.path.parent / entry.tls.key]
        return found

    def _look(self) -> list[tuple[Path, tuple[int, int, int, int] | None]]:
        return [(path, _sign(path)) for path in self._files()]

    def __str__(self) -> str:
        newest = f"its newest version was refused: {self.problem}" if self.problem else "this is its newest version"
        return f"{self.path}, read again {self.reloads} times; {newest}"


class Shown(Stack[Connection]):
    """What the admin endpoint shows of a configuration: how it stands, and the stack that serves now."""

    __slots__ = ("configuration",)

    def __init__(self, configuration: Configuration) -> None:
        self.configuration: Configuration = configuration

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return what serves now."""
        return [("now", self.configuration.swap.stack)]

    def title(self) -> str:
        """Return how the file stands."""
        return str(self.configuration)


def _sign(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


@dataclass(frozen=True, slots=True, repr=False)
class Configured(Stack[Connection]):
    """Serves by a file: YAML (extra ``config``) or JSON, as ``linkerd-proxy schema`` describes it.

    Whenever the file changes, the new stack is opened, serves all new connections, and the old one drains. A file that
    is bad changes nothing. The listeners are opened by whoever serves this, so their addresses can't change. So it is
    with what is beside them: ``admin``, ``tap_server``, ``otlp_metrics``, ``workers`` and ``log`` are the command's.

    Args:
        path: The file.
        bound: Where the listeners really listen, by their names, if several have ports that the system chose.
        interval: Seconds between looks at the file.

    Opening raises:
        InvalidConfiguration: if the file does not describe a proxy.
    """

    path: str | Path
    bound: Bound = field(default_factory=lambda: _NOWHERE, hash=False)
    interval: float = 1.0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        """Read the file, open what it describes, and follow its changes until closed."""
        configuration = Configuration(self.path, bound=self.bound, interval=self.interval)
        async with opened(configuration.swap) as service, open_background() as nursery:
            nursery.start_soon(configuration.follow)
            yield service

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return what the file describes now."""
        return [("now", build(read_config(self.path), base=Path(self.path).parent, bound=self.bound))]

    def title(self) -> str:
        """Return the line without the stack."""
        return f"Configured({str(self.path)!r})"
