"""Where something listens or is reached: ``host:port`` or a Unix socket's path."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from linkerd_proxy.errors import InvalidConfiguration

__all__ = [
    "Address",
    "AnyAddress",
    "UnixAddress",
    "check_target",
    "is_name",
    "is_under",
    "parse_address",
    "parse_target",
    "split_authority",
]

# RFC 1123 names of at most 253 octets, labels of at most 63; underscores occur in practice (SRV, Compose).
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address: an IP address or a name, and a port from 0 to 65535.

    ``str()`` gives the form that :func:`parse_address` reads, with IPv6 in brackets.
    """

    host: str
    port: int

    @property
    def is_ip(self) -> bool:
        """Whether the host is an IP address, so that no look-up is needed."""
        try:
            ipaddress.ip_address(self.host.partition("%")[0])
        except ValueError:
            return False
        return True

    @property
    def is_loopback(self) -> bool:
        """Whether the host is a loopback IP address."""
        return self.is_ip and ipaddress.ip_address(self.host.partition("%")[0]).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a Unix stream socket; a leading ``@`` names Linux's abstract namespace."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


AnyAddress: TypeAlias = Address | UnixAddress


def parse_address(text: str, *, default_port: int | None = None) -> AnyAddress:
    """Read ``host:port``, ``[v6]:port``, ``:port``, a bare port, or ``unix:/path``.

    Args:
        text: What the user wrote. An empty host means every interface when listened on.
        default_port: The port of an address that names none.

    Raises:
        InvalidConfiguration: naming the text and what is wrong with it.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path or len(path.encode()) > 107:  # sun_path holds 108 with its NUL
            raise InvalidConfiguration(f"{text!r} is no Unix socket: give unix:/path of at most 107 bytes")
        return UnixAddress(path)
    if text.isascii() and text.isdigit():
        return Address("", _port(text, text))
    host, port = _split(text)
    if port is None and default_port is None:
        raise InvalidConfiguration(f"{text!r} has no port: write host:port, for example 127.0.0.1:8080")
    number = _port(port, text) if port is not None else default_port
    assert number is not None
    return Address(_host(host, text), number)


def parse_target(text: str | AnyAddress) -> AnyAddress:
    """Read where something is reached: as :func:`parse_address`, but nobody is reached at port 0.

    Raises:
        InvalidConfiguration: naming the text and what is wrong with it.
    """
    address = parse_address(text) if isinstance(text, str) else text
    if not isinstance(address, AnyAddress):
        raise InvalidConfiguration(f"{address!r} is no address: give text, as in '127.0.0.1:8080', or an Address")
    check_target(address)
    return address


def check_target(address: AnyAddress) -> None:
    """Refuse an address that nobody can be reached at: port 0 lets a listener choose, and means nothing else.

    Raises:
        InvalidConfiguration: naming it.
    """
    if isinstance(address, Address) and not address.port:
        raise InvalidConfiguration(f"'{address}' can't be reached: port 0 is none; give the port that is listened on")


def split_authority(authority: str) -> tuple[str, str]:
    """Return host and port of ``host[:port]``; the port is empty where there is none, IPv6 keeps its brackets."""
    host, colon, port = authority.rpartition(":")
    if not colon or "]" in port:
        return authority, ""
    return host, port


def _split(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise InvalidConfiguration(f"{text!r} is no address: write IPv6 as [::1]:8080")
        return host, rest[1:] if rest else None
    if "://" in text:
        raise InvalidConfiguration(f"{text!r} is a URL: write host:port alone, for example 127.0.0.1:8080")
    if text.count(":") > 1:
        raise InvalidConfiguration(f"{text!r} is ambiguous: put the IPv6 address in brackets, as in [::1]:8080")
    host, colon, port = text.partition(":")
    return host, port if colon else None


def _port(port: str, text: str) -> int:
    if not (port.isascii() and port.isdigit()) or len(port) > 5 or int(port) > 65535:
        raise InvalidConfiguration(f"{text!r} has no valid port: give a number from 0 to 65535")
    return int(port)


def _host(host: str, text: str) -> str:
    if not host:
        return ""
    try:
        ip, percent, zone = host.partition("%")
        return f"{ipaddress.ip_address(ip)}{percent}{zone}"
    except ValueError:
        pass
    if not is_name(host):
        raise InvalidConfiguration(f"{text!r} names no host: give an IP address or a DNS name")
    return host.lower()


def is_name(host: str) -> bool:
    """Whether this can be a DNS name: labels of at most 63 characters, 253 in all, and nothing like an IPv4 address."""
    return len(host) <= 253 and _NAME.fullmatch(host) is not None and not re.fullmatch(r"[0-9.]+", host)


def is_under(name: str, domains: Iterable[str]) -> bool:
    """Whether a DNS name is one of the domains or below one; the empty domain has every name below it."""
    name = f".{name.lower().removesuffix('.')}"
    return any(not domain or name.endswith(f".{domain.lower().strip('.')}") for domain in domains)
