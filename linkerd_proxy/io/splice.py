"""Pipes for moving bulk data from socket to socket inside the kernel."""

from __future__ import annotations

import fcntl
import logging
import os
import sys

import trio

__all__ = ["PIPE_SIZE", "Pipe", "Pipes", "current_pipes", "splice"]

logger: logging.Logger = logging.getLogger("linkerd_proxy.io")

PIPE_SIZE = 1 << 20  # the most that an unprivileged process may ask for (fs.pipe-max-size)
_MAX_PIPES = 64  # those of one user share 64 MiB (fs.pipe-user-pages-soft); flows without one copy
_MAX_IDLE = 16

if sys.platform == "linux":
    _FLAGS = 1 | 2  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK, see splice(2)

    def splice(source: int, sink: int, count: int) -> int:
        """Move at most ``count`` bytes between a pipe and a socket; 0 means the end. Never blocks.

        Raises:
            BlockingIOError: if nothing can be moved now.
            OSError: if one of them is broken.
        """
        return os.splice(source, sink, count, flags=_FLAGS)

else:  # Pipes.take() gives none there

    def splice(source: int, sink: int, count: int) -> int:
        """Move nothing: this system can't."""
        raise BlockingIOError


class Pipe:
    """A pipe, and how many bytes are in it."""

    __slots__ = ("held", "read_fd", "size", "write_fd")

    def __init__(self) -> None:
        self.read_fd: int
        self.write_fd: int
        self.read_fd, self.write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held: int = 0
        try:
            self.size: int = fcntl.fcntl(self.write_fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except OSError:  # the user's share is used up: the default size serves as well
            self.size = fcntl.fcntl(self.write_fd, fcntl.F_GETPIPE_SZ)

    def close(self) -> None:
        """Close both ends."""
        os.close(self.read_fd)
        os.close(self.write_fd)

    def __repr__(self) -> str:
        return f"<Pipe {self.held}/{self.size} bytes>"


class Pipes:
    """The pipes of one Trio run: a bounded number, the idle ones kept for the next flow."""

    __slots__ = ("idle", "in_use")

    def __init__(self) -> None:
        self.idle: list[Pipe] = []
        self.in_use: int = 0

    def take(self) -> Pipe | None:
        """Return an empty pipe, or None if there are too many already or no descriptors are left."""
        if self.idle:
            pipe = self.idle.pop()
        elif self.in_use >= _MAX_PIPES or sys.platform != "linux":
            return None
        else:
            try:
                pipe = Pipe()
            except OSError as error:
                logger.debug("no pipe to splice through: %s", error)
                return None
        self.in_use += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Keep an empty pipe for the next flow; close one that still holds bytes of an aborted one."""
        self.in_use -= 1
        if pipe.held or len(self.idle) >= _MAX_IDLE:
            pipe.close()
        else:
            self.idle.append(pipe)

    async def close_at_end(self) -> None:
        """Sleep until the Trio run ends, then close the idle pipes. Runs as a system task."""
        try:
            await trio.sleep_forever()
        finally:
            while self.idle:
                self.idle.pop().close()

    def __repr__(self) -> str:
        return f"<Pipes {self.in_use} in use, {len(self.idle)} idle>"


_pipes: trio.lowlevel.RunVar[Pipes] = trio.lowlevel.RunVar("linkerd_proxy.pipes")


def current_pipes() -> Pipes:
    """Return the pipes of this Trio run."""
    try:
        return _pipes.get()
    except LookupError:
        pipes = Pipes()
        _pipes.set(pipes)
        trio.lowlevel.spawn_system_task(pipes.close_at_end, name="linkerd_proxy.pipes")
        return pipes
