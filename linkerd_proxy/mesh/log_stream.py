"""``/logs.json`` of the admin endpoint: the log as lines of JSON, while it is written."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import unquote_plus

import trio

from linkerd_proxy.core.message import Body, Response
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import Overloaded
from linkerd_proxy.mesh.log_format import JsonLines
from linkerd_proxy.mesh.log_level import level_of, parse_directives

__all__ = ["stream_log"]

BUFFER = 400
"""Lines that wait for a slow reader, as many as a tap's events; what comes beyond is dropped, and a line says so."""
MAX_STREAMS = 16
"""Streams at once (own figure): each looks at every line."""
_ALIVE = 10.0  # seconds of silence after which an empty line tells whether the reader is still there
_LONGEST = 4096  # bytes of a QUERY's content
_LOGGER = logging.getLogger("linkerd_proxy")


async def stream_log(exchange: Exchange) -> None:
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
    directives = parse_directives(unquote_plus(text).strip() or "trace")
    with _open(directives) as stream:
        await exchange.respond(Response(200, [("content-type", "application/x-ndjson")], _Lines(stream)))


class _Stream(logging.Handler):
    """One reader's lines."""

    def __init__(self, directives: Mapping[str, int]) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
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
            self._push(line)
        else:
            self._token.run_sync_soon(self._push, line)

    def _push(self, line: str) -> None:
        if len(self._waiting) >= BUFFER:
            self._dropped += 1
            return
        self._waiting.append(line)
        self._arrived.set()

    async def wait(self) -> bytes:
        """Return what there is once there is something, or an empty line after a while."""
        await trio.lowlevel.checkpoint()
        if not self._waiting:
            self._arrived = trio.Event()
            with trio.move_on_after(_ALIVE):
                await self._arrived.wait()
        found = [*self._waiting]
        self._waiting.clear()
        if self._dropped:
            found.append(f'{{"dropped":{self._dropped}}}')
            self._dropped = 0
        return "".join(f"{line}\n" for line in found or [""]).encode()


class _Lines(Body):
    """The body of an answer that never ends by itself."""

    __slots__ = ("_stream",)

    def __init__(self, stream: _Stream) -> None:
        super().__init__()
        self._stream = stream

    async def pull(self) -> bytes:
        """Return the next lines."""
        return await self._stream.wait()


@contextmanager
def _open(directives: Mapping[str, int]) -> Iterator[_Stream]:
    if sum(isinstance(one, _Stream) for one in _LOGGER.handlers) >= MAX_STREAMS:
        raise Overloaded(f"{MAX_STREAMS} streams of the log are open already", layer="admin", remedy="end one of them")
    stream = _Stream(directives)
    _LOGGER.addHandler(stream)
    try:
        yield stream
    finally:
        _LOGGER.removeHandler(stream)
