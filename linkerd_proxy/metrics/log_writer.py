"""Where access logs are written: one task, one bounded queue, and a count of what did not fit."""

from __future__ import annotations

import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import trio

from linkerd_proxy.core.waiter import Waiter
from linkerd_proxy.metrics.log_record import Record
from linkerd_proxy.metrics.registry import Registry

__all__ = ["LogWriter"]

logger: logging.Logger = logging.getLogger("linkerd_proxy.accesslog")

_BATCH = 1000  # lines a write; own figure
_PIECE = 4096  # bytes that a pipe which is ready takes without blocking (POSIX: PIPE_BUF)
_STDOUT = 1
_GATHER = 0.02  # seconds in which lines gather before a thread is asked to write them, which costs as much as ten; own
_PAUSE = 1.0  # seconds until a full disk is asked again, not a thousand times in one
_NOTHING = (0, b"")
_PATIENCE = 0.2  # seconds for a write that is under way at the end; own figure: a disk needs a hundredth of it


class LogWriter:
    """Writes lines to a file or to standard output, in a thread, since a disk or a pipe may keep it waiting.

    A file that was moved away is opened anew by its name, so that logs can be rotated by moving them.

    Args:
        path: The file; None is standard output.
        line: Makes a line of a record.
        queue: How many records may wait; of more, the newest are dropped and counted.
        registry: Where it is counted.
    """

    __slots__ = (
        "_batch",
        "_closing",
        "_dropped",
        "_fd",
        "_identity",
        "_line",
        "_lock",
        "_path",
        "_queue",
        "_records",
        "_sleeper",
        "_written",
    )

    def __init__(self, path: Path | None, line: Callable[[Record], str], queue: int, registry: Registry) -> None:
        self._path = path
        self._line = line
        self._queue = queue
        self._records: deque[Record] = deque()
        self._sleeper = Waiter()
        self._fd = -1
        self._identity = (0, 0)
        self._lock = threading.Lock()
        self._closing = False
        self._batch = _NOTHING
        self._written = registry.counter("access_log_lines_total", "Lines of access logs that were written")
        self._dropped = registry.counter(
            "access_log_dropped_total", "Lines of access logs that were dropped: the writer was behind, or failed"
        )
        self._reopen()

    def put(self, record: Record) -> None:
        """Queue a record, or drop it. Never waits."""
        if len(self._records) >= self._queue:
            self._dropped.value += 1
            return
        self._records.append(record)
        self._sleeper.wake()

    async def run(self) -> None:
        """Write what is queued, for ever."""
        failed = False
        while True:
            if not self._records:
                await self._sleeper.wait()
                await trio.sleep(_GATHER)
            self._batch = self._take()
            error = await trio.to_thread.run_sync(self._write, abandon_on_cancel=True)
            if error is not None:
                if not failed:  # a line for each that is lost would be a log of its own
                    logger.warning(
                        "the access log %s can't be written (%s): lines are dropped and counted in "
                        "access_log_dropped_total until it can; make room, or look who reads it",
                        self._name(),
                        error.strerror,
                    )
                await trio.sleep(_PAUSE)
            elif failed:
                logger.warning("the access log %s can be written again", self._name())
            failed = error is not None

    def _take(self) -> tuple[int, bytes]:
        records = self._records
        lines = [self._line(records.popleft()) for _ in range(min(len(records), _BATCH))]
        lines.append("")
        return len(lines) - 1, "\n".join(lines).encode("utf-8", "backslashreplace")

    # --- in a thread, one at a time ---

    def _write(self) -> OSError | None:
        with self._lock:
            count, data = self._batch
            self._batch = _NOTHING
            if not data:
                return None  # the end came first, and has written it
            try:
                self._reopen()
                while data:
                    data = data[os.write(self._fd, data) :]
                self._written.value += count
            except OSError as error:
                self._dropped.value += count
                return error
            else:
                return None
            finally:
                if self._closing:  # nobody waited for this write, so that only it knows when the file is free
                    self._close_file()

    def _reopen(self) -> None:
        """Open the file, if it is not open or if its name now stands for another one."""
        if self._path is None:
            self._fd = _STDOUT
            return
        try:
            now = os.stat(self._path)
            there = self._fd >= 0 and (now.st_dev, now.st_ino) == self._identity
        except FileNotFoundError:
            there = False
        if there:
            return
        # Not blocking, for opening a pipe would wait for its reader; writing may wait, it has a thread for that.
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
        os.set_blocking(fd, True)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        opened = os.fstat(fd)
        self._identity = (opened.st_dev, opened.st_ino)

    def close(self) -> None:
        """Write what is left, as far as that needs no waiting, and close the file."""
        self._closing = True
        if not self._lock.acquire(timeout=_PATIENCE):
            self._dropped.value += len(self._records)
            return
        count, data = self._batch
        self._batch = _NOTHING
        try:
            if self._fd < 0 and (data or self._records):
                self._reopen()  # a write that was under way has ended meanwhile, and closed it
            while data or self._records:
                if not data:
                    count, data = self._take()
                self._flush(data)
                self._written.value += count
                count, data = _NOTHING
        except OSError:
            self._dropped.value += count + len(self._records)
        finally:
            self._close_file()
            self._lock.release()

    def _close_file(self) -> None:
        if self._path is not None and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _flush(self, data: bytes) -> None:
        ready = select.poll()
        ready.register(self._fd, select.POLLOUT)
        while data:
            if not ready.poll(0):
                raise BlockingIOError("nobody reads the access log")
            data = data[os.write(self._fd, data[:_PIECE]) :]

    def _name(self) -> str:
        return "on standard output" if self._path is None else str(self._path)

    def __repr__(self) -> str:
        return f"<LogWriter to {self._path or 'standard output'}, {len(self._records)} lines wait>"
