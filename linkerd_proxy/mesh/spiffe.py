"""The SPIFFE Workload API of this host, found as the standard says."""

from __future__ import annotations

import os

from linkerd_proxy.address import Address, AnyAddress, UnixAddress, parse_address
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.client import Client
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tls.workload_api import Spiffe

__all__ = ["SOCKET_VARIABLE", "spiffe"]

SOCKET_VARIABLE = "SPIFFE_ENDPOINT_SOCKET"


def spiffe(socket: str | None = None, *, name: str | None = None) -> Spiffe:
    """Return the identity that the agent on this host hands out.

    Args:
        socket: Where the agent listens: ``unix:///path`` (or a path), or ``tcp://127.0.0.1:port``. By default what the
            environment says in ``SPIFFE_ENDPOINT_SOCKET``.
        name: The SPIFFE ID to use, where there are several; by default the first.

    Raises:
        InvalidConfiguration: if neither says where the agent listens, or that is no address.

    Source: spiffe/spiffe, standards/SPIFFE_Workload_Endpoint.md section 4.
    """
    where = socket if socket is not None else os.environ.get(SOCKET_VARIABLE, "")
    if not where:
        raise InvalidConfiguration(
            f"nothing says where the SPIFFE agent listens: set {SOCKET_VARIABLE}, for example to unix:///run/agent.sock"
        )
    return Spiffe(Client(protocol="h2") | Connect(_address(where)), name)


def _address(where: str) -> AnyAddress:
    if where.startswith("/"):
        return parse_address(f"unix:{where}")
    scheme, colon, rest = where.partition(":")
    if colon and scheme == "unix":
        path = rest.removeprefix("//")
        address = parse_address(f"unix:{path}")
        if isinstance(address, UnixAddress) and path.startswith("/") and not set("?#") & set(path):
            return address
    elif colon and scheme == "tcp" and rest.startswith("//"):
        address = parse_address(rest.removeprefix("//"))
        if isinstance(address, Address) and address.is_ip:
            return address
    raise InvalidConfiguration(f"{where!r} is no SPIFFE endpoint: write unix:///path, or tcp:// with an IP and a port")
