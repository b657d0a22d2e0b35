"""Which way a task's work came, so that it is not sent back there, nor round and round."""

from __future__ import annotations

import ipaddress
import socket
from contextvars import ContextVar

from linkerd_proxy.address import Address, AnyAddress

__all__ = ["MAX_HOPS", "came_through", "hops", "is_local", "passed_on", "would_loop"]

MAX_HOPS = 10
"""Proxies that may pass work on without an application between them (own)."""

_DISCARD = 9  # any port would do

_through: ContextVar[AnyAddress | None] = ContextVar("linkerd_proxy.came_through", default=None)
_hops: ContextVar[int] = ContextVar("linkerd_proxy.hops", default=0)


def came_through(address: AnyAddress) -> None:
    """Note that what this task, and those that it starts, will serve came through the listener on that address."""
    _through.set(address)


def passed_on(count: int) -> bool:
    """Note how many proxies have passed this task's work on so far; return whether those are too many.

    Proxies tell each other, so that two which send everything to each other don't do it for ever.
    """
    _hops.set(count)
    return count > MAX_HOPS


def hops() -> int:
    """Return how many proxies have passed this task's work on; 0 for what an application asked for."""
    return _hops.get()


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
    if not address.is_ip:
        return False
    ours, target = _plain(listener.host), _plain(address.host)
    if target[0].is_unspecified:  # there the system connects to the loopback
        target = (ipaddress.ip_address("127.0.0.1" if target[0].version == 4 else "::1"), "")
    return ours == target or (ours[0].is_unspecified and _is_of_this_host(str(target[0]), target[1]))


def is_local(address: AnyAddress) -> bool:
    """Whether an address leads to this host, or is told to none but its neighbours: what is there was kept private.

    Those are loopback, unspecified and link-local addresses (in a cloud the metadata service), multicast, the
    addresses of this host's interfaces, and Unix sockets. Names are not looked up.
    """
    if not isinstance(address, Address):
        return True
    if not address.is_ip:
        return False
    ip, zone = _plain(address.host)
    return ip.is_loopback or ip.is_unspecified or ip.is_link_local or ip.is_multicast or _is_of_this_host(str(ip), zone)


def _plain(host: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, str]:
    """Return an address, IPv4 as such also where it is written as IPv6, and its interface."""
    text, _, zone = host.partition("%")
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address, zone


def _is_of_this_host(host: str, zone: str) -> bool:
    """Whether the address is one of ours: then, and only then, is it also the one to send from. Nothing is sent."""
    if ipaddress.ip_address(host).is_loopback:
        return True
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((f"{host}%{zone}" if zone else host, _DISCARD))
            return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0]) == ipaddress.ip_address(host)
    except OSError:
        return False  # there is no way to it
