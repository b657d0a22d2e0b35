"""Which descriptors are open: what a test opened and left is what was not there before."""

from __future__ import annotations

import os

from linkerd_proxy.io import splice


def descriptors() -> set[str]:
    """Return the open descriptors of this process, each with what it is: a new socket is another one, whatever its number.

    Sets, not counts: what another test's thread or the collector closes meanwhile is nothing that this one has left.
    """
    return {_named(number) for number in os.listdir("/proc/self/fd")} - {""}


def idle_pipes() -> set[str]:
    """Return those of the pipes that are kept for the next flow, as long as the Trio run lasts."""
    pipes = splice._pipes.get(None)  # current_pipes() would make them, and the task that closes them
    return {_named(number) for pipe in (pipes.idle if pipes else ()) for number in (pipe.read_fd, pipe.write_fd)}


def _named(number: int | str) -> str:
    try:
        return f"{number} {os.readlink(f'/proc/self/fd/{number}')}"
    except FileNotFoundError:
        return ""  # that of the directory itself, or one that a thread has closed
