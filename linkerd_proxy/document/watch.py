"""Notice that a file has changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import trio

__all__ = ["FileWatch"]

_Sign: TypeAlias = tuple[int, int, int, int] | None


class FileWatch:
    """Looks at a file's inode, time and size now and then: at what a link points to, so that swapping links is seen.

    A file that is renamed into place counts at once; one that is written in place only when it has been left alone from
    one look to the next, so that half a file is not taken for a whole one.

    Args:
        path: The file; it need not be there.
        interval: Seconds between looks.
    """

    __slots__ = ("_interval", "_path", "_seen")

    def __init__(self, path: str | Path, interval: float = 1.0) -> None:
        self._path = path
        self._interval = interval
        self._seen: _Sign = self._look()

    def _look(self) -> _Sign:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    async def wait_changed(self) -> None:
        """Wait until the file is another than it was at the last return (or when this object was made)."""
        while True:
            await trio.sleep(self._interval)
            sign = self._look()
            if sign == self._seen:
                continue
            in_place = sign is not None and self._seen is not None and sign[:2] == self._seen[:2]
            while in_place:
                await trio.sleep(self._interval)
                again = self._look()
                if again == sign:
                    break
                sign = again
            self._seen = sign
            return

    def __repr__(self) -> str:
        return f"<FileWatch {self._path}>"
