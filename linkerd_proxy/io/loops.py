"""Which addresses this process listens on, so that it does not connect to itself."""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter

import trio

from linkerd_proxy.address import Address, AnyAddress

__all__ = ["is_own_listener", "listening", "not_listening"]

_own: trio.lowlevel.RunVar[Counter[AnyAddress]] = trio.lowlevel.RunVar("linkerd_proxy.own_listeners")


def _addresses() -> Counter[AnyAddress]:
    try:
        return _own.get()
    except LookupError:
        own: Counter[AnyAddress] = Counter()
        _own.set(own)
        return own


def listening(address: AnyAddress) -> None:
    """Note that this process listens on an address."""
    _addresses()[address] += 1


def not_listening(address: AnyAddress) -> None:
    """Note that a listener was closed."""
    own = _addresses()
    own[address] -= 1
    if own[address] <= 0:
        del own[address]


def is_own_listener(address: AnyAddress) -> bool:
    """Whether a connection to this address would arrive at a listener of this process.

    A listener on every interface is met at each address of this host. Names are not looked up: ask again with the
    addresses that they resolve to.
    """
    own = _addresses()
    if address in own:
        return True
    if not isinstance(address, Address) or not address.is_ip:
        return False
    everywhere = [one for one in own if isinstance(one, Address) and one.port == address.port and _is_any(one.host)]
    return bool(everywhere) and (_is_any(address.host) or _is_of_this_host(address.host))


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
