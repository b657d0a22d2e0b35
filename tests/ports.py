"""Ports of loopback that nobody listens on, and that nobody else can get meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_port(host: str = "127.0.0.1") -> Iterator[int]:
    """Hold a port: connections to it are refused, until a program with ``SO_REUSEADDR`` listens on it.

    A port that was closed instead is free: the system may give it to the next socket that asks for any, and a connection
    to it may even come from the very same port, and then be one to itself.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, 0))
        yield sock.getsockname()[1]
