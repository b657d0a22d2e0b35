"""Which listener a task's work came through, so that it is not sent back there."""

from __future__ import annotations

import ipaddress
import socket
from contextvars import ContextVar

from linkerd_proxy.address import Address, AnyAddress

__all__ = ["came_through", "would_loop"]

_through: ContextVar[AnyAddress | None] = ContextVar("linkerd_proxy.came_through", default=None)


def came_through(address: AnyAddress) -> None:
    """Note that what this task, and those that it starts, will serve came through the listener on that address."""
    _through.set(address)


def would_loop(address: AnyAddress) -> bool:
    """Whether a connection to this address would arrive at the listener that this task's work came through.

    A listener on every interface is met at each address of this host. Names are not looked up: ask again with the
    addresses that they resolve to. Other listeners of the process are no loop: a test, or a demonstration, has a proxy
    and its upstream in one.
    """
    listener = _through.get()
    if listener is None:
        return False
    if listener == address:
        return True
    if not isinstance(address, Address) or not isinstance(listener, Address) or listener.port != address.port:
        return False
    if not address.is_ip or not _is_any(listener.host):
        return False
    return _is_any(address.host) or _is_of_this_host(address.host)


def _is_any(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_unspecified


def _is_of_this_host(host: str) -> bool:
    """Whether the address is one of ours: then, and only then, can a socket be bound to it."""
    if ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        return True
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
