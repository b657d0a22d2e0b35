"""One look-up of a name in the DNS, by dnspython (extra ``dns``)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import trio

from linkerd_proxy.address import UnixAddress, parse_address
from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.errors import InvalidConfiguration

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.nameserver
    import dns.resolver

__all__ = ["Answer", "Failure", "Found", "Lookup", "Record", "RecordType", "make_lookup"]

RecordType: TypeAlias = Literal["A", "AAAA", "SRV"]


@dataclass(frozen=True, slots=True)
class Record:
    """One record of an answer: an IP address, or for SRV where to ask on."""

    host: str
    port: int = 0
    priority: int = 0
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What a server answered. No records: the name, or records of that type, do not exist.

    Args:
        records: The records, perhaps none.
        ttl: Seconds that this may be believed; for none, as the zone's SOA says.
    """

    records: tuple[Record, ...]
    ttl: float


@dataclass(frozen=True, slots=True)
class Failure:
    """No server answered, or they said that they can't."""

    problem: str


Answer: TypeAlias = Found | Failure
Lookup: TypeAlias = Callable[[str, RecordType], Awaitable[Answer]]
"""Looks up records of one type; raises nothing."""


def make_lookup(servers: Sequence[str], timeout: float) -> Lookup:
    """Return a look-up by dnspython.

    Args:
        servers: Whom to ask, as ``ip`` or ``ip:port``; none for those of /etc/resolv.conf, with its search list.
        timeout: Seconds for all tries of one look-up. Once there was an answer, each server is asked once in that time:
            what is known already needs no haste, and servers that fail no storm.

    Raises:
        InvalidConfiguration: if dnspython is not installed, or the system has no usable resolv.conf.
    """
    try:
        import dns.asyncresolver
        import dns.resolver
    except ImportError:
        raise InvalidConfiguration("Dns(...) needs dnspython: pip install 'linkerd-proxy[dns]'") from None
    try:
        resolver = dns.asyncresolver.Resolver(configure=not servers)
    except dns.resolver.NoResolverConfiguration as error:
        raise InvalidConfiguration(f"{error}: give Dns(servers=[...])") from error
    if servers:
        resolver.nameservers = [_server(server) for server in servers]
    resolver.lifetime = timeout
    once = timeout / max(1, len(resolver.nameservers))

    async def look_up(name: str, kind: RecordType) -> Answer:
        try:
            with trio.fail_after(timeout):  # the library goes by the wall clock, which may jump
                answer = await resolver.resolve(name, kind, search=not servers, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN as error:
            resolver.timeout = once
            return Found((), _negative_ttl(error))
        except trio.TooSlowError:
            return Failure(f"no answer in {timeout:g} s")
        except Exception as error:
            # What the network or a hostile server may do to the library is no bug of ours.
            text = " ".join(str(unwrapped(error)).split()) or type(error).__name__
            return Failure(text[:200])
        resolver.timeout = once
        return Found(_records(answer, kind), answer.chaining_result.minimum_ttl)

    return look_up


def _server(text: str) -> dns.nameserver.Do53Nameserver:
    from dns.nameserver import Do53Nameserver

    address = parse_address(text, default_port=53)
    if isinstance(address, UnixAddress) or not address.is_ip:
        raise InvalidConfiguration(f"Dns(servers=[{text!r}]): a server must be an IP address, as in '10.0.0.53:53'")
    return Do53Nameserver(address.host, address.port)


def _negative_ttl(error: dns.resolver.NXDOMAIN) -> float:
    from dns.rdatatype import SOA

    try:
        responses = list(error.responses().values())  # type: ignore[no-untyped-call]
        if not all(any(found.rdtype == SOA for found in message.authority) for message in responses):
            return 0.0  # it may not be kept (RFC 2308 section 5); the library would make it five minutes
        return float(min(message.resolve_chaining().minimum_ttl for message in responses))
    except Exception:  # one that can't be followed: the caller's floor stands
        return 0.0


def _records(answer: dns.resolver.Answer, kind: RecordType) -> tuple[Record, ...]:
    if answer.rrset is None:
        return ()
    if kind != "SRV":
        return tuple(Record(record.address) for record in answer.rrset)
    return tuple(
        Record(record.target.to_text(omit_final_dot=False), record.port, record.priority, record.weight)
        for record in answer.rrset
    )
