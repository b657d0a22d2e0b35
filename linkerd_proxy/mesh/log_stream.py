"""``/logs.json`` of the admin endpoint: the log as lines of JSON, while it is written."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TypeAlias
from urllib.parse import unquote_plus

import trio

from linkerd_proxy.core.message import Body, Response
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import Overloaded
from linkerd_proxy.mesh.log_format import JsonLines
from linkerd_proxy.mesh.log_level import level_of, parse_directives

__all__ = ["LogStream", "OpenLogs", "log_here", "open_log", "stream_log"]

BUFFER = 400
"""Lines that wait for a slow reader, as many as a tap's events; what comes beyond is dropped, and a line says so."""
MAX_STREAMS = 16
"""Streams at once (own figure): each looks at every line."""
_ALIVE = 10.0  # seconds of silence after which an empty line tells whether the reader is still there
_LONGEST = 4096  # bytes of a QUERY's content
_LOGGER = logging.getLogger("linkerd_proxy")


async def stream_log(exchange: Exchange, logs: OpenLogs | None = None) -> None:
    """Answer ``GET /logs.json?warn,linkerd_proxy.failures=debug``, or ``QUERY`` with that as content, for ever.

    It shows no more than the level of the log lets pass, which ``/proxy-log-level`` changes.

    Raises:
        InvalidConfiguration: if that names no level; nothing was answered then.
        Overloaded: if too many streams are open.
    """
    request = exchange.request
    text = request.path.partition("?")[2]
    if request.method == "QUERY":
        text = (await request.body.read(_LONGEST)).decode("utf-8", "replace")
    async with (logs or log_here)(unquote_plus(text).strip() or "trace") as stream:
        await exchange.respond(Response(200, [("content-type", "application/x-ndjson")], _Lines(stream)))


class LogStream(logging.Handler):
    """One reader's lines.

    Args:
        directives: Which, as ``/logs.json`` takes them, read.
        worker: The number of this process, if it is one of several.
    """

    def __init__(self, directives: Mapping[str, int], worker: int | None = None) -> None:
        super().__init__()
        self.setFormatter(JsonLines(worker))
        self._directives = directives
        self._waiting: deque[str] = deque()
        self._dropped = 0
        self._arrived = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line, from whatever thread; never wait."""
        if record.levelno < level_of(record.name, self._directives):
            return
        line = self.format(record)
        if threading.get_ident() == self._thread:
            self.push(line)
        else:
            self._token.run_sync_soon(self.push, line)

    def push(self, line: str) -> None:
        """Put a line where the reader finds it, or drop it if there are too many."""
        if len(self._waiting) >= BUFFER:
            self._dropped += 1
            return
        self._waiting.append(line)
        self._arrived.set()

    def lose(self, count: int) -> None:
        """Count lines that were dropped before they came here."""
        self._dropped += count
        self._arrived.set()

    async def next_batch(self, silence: float) -> tuple[list[str], int]:
        """Return the lines that there are, once there are some or after a silence, and how many were dropped."""
        await trio.lowlevel.checkpoint()
        if not self._waiting and not self._dropped:
            self._arrived = trio.Event()
            with trio.move_on_after(silence):
                await self._arrived.wait()
        found = [*self._waiting]
        self._waiting.clear()
        dropped, self._dropped = self._dropped, 0
        return found, dropped


OpenLogs: TypeAlias = Callable[[str], AbstractAsyncContextManager[LogStream]]
"""Opens a stream of the log, by directives, for as long as a block takes."""


@asynccontextmanager
async def log_here(text: str) -> AsyncIterator[LogStream]:
    """Take the lines that this process logs, as :func:`open_log` does."""
    with open_log(text) as stream:
        yield stream


class _Lines(Body):
    """The body of an answer that never ends by itself."""

    __slots__ = ("_stream",)

    def __init__(self, stream: LogStream) -> None:
        super().__init__()
        self._stream = stream

    async def pull(self) -> bytes:
        """Return the next lines, or an empty one after a while."""
        lines, dropped = await self._stream.next_batch(_ALIVE)
        if dropped:
            lines.append(f'{{"dropped":{dropped}}}')
        return "".join(f"{line}\n" for line in lines or [""]).encode()


@contextmanager
def open_log(text: str, worker: int | None = None) -> Iterator[LogStream]:
    """Take the lines that this process logs inside the block.

    Args:
        text: Which, as ``/logs.json`` has it.
        worker: The number of this process, if it is one of several.

    Raises:
        InvalidConfiguration: if that names no level.
        Overloaded: if too many streams are open.
    """
    directives = parse_directives(text)
    if sum(isinstance(one, LogStream) for one in _LOGGER.handlers) >= MAX_STREAMS:
        raise Overloaded(f"{MAX_STREAMS} streams of the log are open already", layer="admin", remedy="end one of them")
    stream = LogStream(directives, worker)
    _LOGGER.addHandler(stream)
    try:
        yield stream
    finally:
        _LOGGER.removeHandler(stream)
