"""Containment: one connection's failure is counted and logged, and ends there."""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import trio

from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.codes import code_of
from linkerd_proxy.core.notes import current_notes
from linkerd_proxy.core.stack import Service
from linkerd_proxy.core.work import Connection
from linkerd_proxy.metrics.registry import current_registry

__all__ = ["Failure", "FailureLog", "contained"]

logger: logging.Logger = logging.getLogger("linkerd_proxy.failures")


async def contained(service: Service[Connection], connection: Connection) -> None:
    """Serve one connection, close its stream, and let nothing but cancellation and process exit through."""
    try:
        try:
            await service(connection)
            if not _close_nowait(connection.stream):
                await _close(connection.stream)
        finally:
            if not _close_nowait(connection.stream):
                await _discard(connection.stream)
    # Design rule 8: the accept loop and every other connection go on. A group may hold failures beside a cancellation
    # (a task failed while the server stopped): ``except*`` keeps the one and passes the other on.
    except* Exception as group:
        record_failure(unwrapped(group), connection)


_CLOSE_TIMEOUT = 5.0  # own figure: a TLS close_notify is the only thing that a close may have to wait for


def _close_nowait(stream: trio.abc.AsyncResource) -> bool:
    """Close a stream that has a ``close_nowait()``, as sockets have: what can't wait needs no cancel scope."""
    close: Callable[[], None] | None = getattr(stream, "close_nowait", None)
    if close is None:
        return False
    close()
    return True


async def _close(stream: trio.abc.AsyncResource) -> None:
    # A peer that never reads must not hold the task, and one that has gone is no failure any more: what was to be sent
    # was sent before the service returned.
    with trio.move_on_after(_CLOSE_TIMEOUT), suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        await stream.aclose()


async def _discard(stream: trio.abc.AsyncResource) -> None:
    """Close a stream that may be closed already, in a task that may be cancelled."""
    with trio.CancelScope(shield=True, deadline=-float("inf")):
        await trio.aclose_forcefully(stream)


def record_failure(error: Exception, connection: Connection) -> None:
    """Count a connection's failure under its code, and log it on one line unless there are too many.

    It never raises: a handler of the log or an error's own text may be broken, and other connections are served on.
    """
    code = code_of(error)
    notes = current_notes()
    if notes is not None:
        notes.failure = code
    with suppress(Exception):
        registry = current_registry()
        registry.counter("proxy_errors_total", "Failures by code, see linkerd-proxy explain", error=code).value += 1
        FailureLog.of_this_run().write(error, code, connection)


_LINE = 1000  # characters: a peer's text must not fill the disk


_RECENT = 20  # failures that a person looks at


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure in plain words.

    Args:
        at: When, by Trio's clock.
        code: Its failure code.
        text: What happened and what to do, escaped.
        peer: Whose connection it was.
        local: Where that had come in.
    """

    at: float
    code: str
    text: str
    peer: str
    local: str


def _one_line(error: Exception) -> str:
    notes = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    return f"{str(error) or type(error).__name__}{notes}"[:_LINE].encode("unicode_escape").decode("ascii")


class FailureLog:
    """Writes one line a failed connection, at most ``rate`` a second with bursts of ``burst``.

    A flood of bad peers must not become a flood of log lines. Text that a peer chose is escaped.
    """

    __slots__ = ("burst", "rate", "recent", "suppressed", "tokens", "updated")

    _run: trio.lowlevel.RunVar[FailureLog] = trio.lowlevel.RunVar("linkerd_proxy.failure_log")

    def __init__(self, rate: float = 10.0, burst: float = 50.0) -> None:
        self.rate: float = rate
        self.burst: float = burst
        self.tokens: float = burst
        self.updated: float = trio.current_time()
        self.suppressed: int = 0
        self.recent: deque[Failure] = deque(maxlen=_RECENT)
        """The last failures, for whoever looks at the proxy; the oldest first."""

    @classmethod
    def of_this_run(cls) -> FailureLog:
        """Return the log that all connections of this Trio run share."""
        try:
            return cls._run.get()
        except LookupError:
            log = cls()
            cls._run.set(log)
            return log

    def write(self, error: Exception, code: str, connection: Connection) -> None:
        """Log one failure, or count it as suppressed."""
        now = trio.current_time()
        text = _one_line(error)
        self.recent.append(Failure(now, code, text, str(connection.peer), str(connection.local)))
        self.tokens = min(self.burst, self.tokens + (now - self.updated) * self.rate)
        self.updated = now
        if self.tokens < 1:
            self.suppressed += 1
            return
        self.tokens -= 1
        more = f" ({self.suppressed} more not logged)" if self.suppressed else ""
        self.suppressed = 0
        where = {"code": code, "peer": connection.peer, "local": connection.local}  # for those who want no text
        logger.warning("%s %s from %s to %s%s", code, text, connection.peer, connection.local, more, extra=where)
        if code == "BUG" and logger.isEnabledFor(logging.DEBUG):
            trace = "".join(traceback.format_exception(error))
            logger.debug("%s", trace)
