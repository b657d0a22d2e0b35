"""The loopback addresses that this host has."""

from __future__ import annotations

import socket

__all__ = ["loopbacks"]


def loopbacks(port: int) -> list[str]:
    """Return the addresses to listen on for this host's own programs: of IPv4, and of IPv6 where it is in use."""
    addresses = [f"127.0.0.1:{port}"]
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return addresses
    return [*addresses, f"[::1]:{port}"]
