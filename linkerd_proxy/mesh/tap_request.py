"""What a caller of Linkerd's tap wants to see, as a match of our own."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Literal

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.grpc.net_api import ip_of, method_of, scheme_of
from linkerd_proxy.grpc.tap_api import HttpMatch, Match, MatchSeq, PairMatch, PortRange, StringMatch, TcpMatch
from linkerd_proxy.metrics.tap_match import Wanted
from linkerd_proxy.metrics.tap_tree import AllOf, AnyOf, End, Head, Label, Not

__all__ = ["match_of"]

_MAX_DEPTH = 16  # own figure; a caller builds two or three levels
_MAX_PARTS = 256  # own figure: each is asked for each request


def match_of(message: Match | None) -> Wanted:
    """Return a request's match. Without one, everything is wanted; empty parts of a sequence say nothing.

    Raises:
        InvalidConfiguration: for a part that can't be, and for a tree too large to be asked for each request.
    """
    if message is None or message.WhichOneof("match") is None:
        return AllOf()
    return _Reading().match(message, 0)


class _Reading:
    """Reads one tree, and counts its parts."""

    def __init__(self) -> None:
        self._parts = 0

    def match(self, message: Match, depth: int) -> Wanted:
        self._parts += 1
        if depth > _MAX_DEPTH or self._parts > _MAX_PARTS:
            raise InvalidConfiguration(
                f"the match is too large: give {_MAX_PARTS} parts and {_MAX_DEPTH} levels at most"
            )
        kind = message.WhichOneof("match")
        if kind is None:
            raise InvalidConfiguration("a match is empty: say what it shall match")
        if kind == "not_":
            return Not(self.match(message.not_, depth + 1))
        if kind == "all":
            return AllOf(self._sequence(message.all, depth))
        if kind == "any":
            return AnyOf(self._sequence(message.any, depth))
        return _LEAVES[kind](message)

    def _sequence(self, sequence: MatchSeq, depth: int) -> tuple[Wanted, ...]:
        return tuple(self.match(one, depth + 1) for one in sequence.matches if one.WhichOneof("match") is not None)


def _end(which: Literal["source", "destination"], message: TcpMatch) -> End:
    if message.WhichOneof("match") == "ports":
        return End(which, ports=_ports(message.ports))
    ip = ip_of(message.netmask.ip)
    mask = message.netmask.mask
    if message.WhichOneof("match") is None or ip is None or mask > ip.max_prefixlen:
        raise InvalidConfiguration(f"the match of the {which} names no network: give an address and a mask, or ports")
    return End(which, ipaddress.ip_network((ip, mask), strict=False))


def _ports(message: PortRange) -> tuple[int, int]:
    low, high = message.min or message.max, message.max or message.min
    if not 0 < low <= high <= 65535:
        raise InvalidConfiguration(f"the ports from {low} to {high} are none: give some from 1 to 65535")
    return low, high


def _head(message: HttpMatch) -> Head:
    kind = message.WhichOneof("match")
    if kind == "authority":
        return _text("authority", message.authority)
    if kind == "path":
        return _text("path", message.path)
    if kind == "method" and (method := method_of(message.method)):
        return Head("method", method)
    if kind == "scheme" and (scheme := scheme_of(message.scheme)):
        return Head("scheme", scheme)
    raise InvalidConfiguration(f"the match of HTTP names no {kind or 'part'}: give a scheme, method, authority or path")


def _text(part: Literal["authority", "path"], message: StringMatch) -> Head:
    kind = message.WhichOneof("match")
    if kind is None:
        raise InvalidConfiguration(f"the match of the {part} is empty: give it exactly, or what it begins with")
    return Head(part, message.exact if kind == "exact" else message.prefix, prefix=kind == "prefix")


def _label(message: PairMatch) -> Label:
    return Label(message.key, message.value)


_LEAVES: dict[str, Callable[[Match], Wanted]] = {
    "source": lambda match: _end("source", match.source),
    "destination": lambda match: _end("destination", match.destination),
    "http": lambda match: _head(match.http),
    "destination_label": lambda match: _label(match.destination_label),
    "route_label": lambda match: _label(match.route_label),
}
