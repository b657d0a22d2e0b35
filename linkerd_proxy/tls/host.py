"""The host that a server's certificate must be for: only one that a certificate can name is looked for."""

from __future__ import annotations

import ipaddress

from linkerd_proxy.address import is_name
from linkerd_proxy.tls.refusal import Refused

__all__ = ["expected_host"]


def expected_host(host: str) -> str:
    """Return a host in the form in which certificates and SNI have it: no interface after an address, no final dot.

    Raises:
        Refused: for what is neither an IP address nor a name; before anything is dialled, and not as whatever the
            libraries raise for it.
    """
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    name = host.removesuffix(".")
    try:
        in_ascii = name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        in_ascii = ""
    if not is_name(in_ascii):
        raise Refused("bad_host", repr(host[:300]))
    return name
