"""The rules by which the kernel hands a host's TCP connections to the proxy, as text for nft and for iptables."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["IPTABLES_CHAINS", "NFT_TABLE", "SKIP_INBOUND", "SKIP_OUTBOUND", "Redirect", "Version"]

Version: TypeAlias = Literal[4, 6]

SKIP_INBOUND: tuple[str, ...] = ("4190", "4191", "4567", "4568")
"""The proxy's own control and admin ports, and Linkerd's default list (Galera, whose nodes must see each other)."""
SKIP_OUTBOUND: tuple[str, ...] = ("4567", "4568")
"""Linkerd's default list."""
NFT_TABLE = "linkerd_proxy"
"""Everything is in this one table, so that deleting it leaves nothing."""
IPTABLES_CHAINS = {"PREROUTING": "LINKERD_PROXY_IN", "OUTPUT": "LINKERD_PROXY_OUT"}
"""The chains of ours, by the built-in chain that jumps to each."""

_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_NAT = -100  # where destinations are translated: NF_IP_PRI_NAT_DST of linux/netfilter_ipv4.h
_PER_RULE = 15  # ports that one multiport match takes, iptables-extensions(8); a range counts twice


@dataclass(frozen=True, slots=True)
class Redirect:
    """What is captured: every TCP connection, IPv4 and IPv6, but the proxy's own and what is skipped.

    Connections that come from outside go to the inbound port; those that applications here make go to the outbound
    port. What stays on the loopback interface is left alone: an application may talk to itself, and the proxy to it.

    Args:
        inbound: The port of the inbound listener (Linkerd: 4143).
        outbound: The port of the outbound listener (Linkerd: 4140).
        uids: The users whose connections are not captured: the proxy must run as one of them, or its own connections
            would come back to it.
        gids: The same for groups.
        skip_inbound: Ports, or ranges as in ``8000-8010``, to which connections from outside go past the proxy.
        skip_outbound: The same for connections to elsewhere.
        skip_subnets: Networks to which connections go past the proxy.
        versions: Of the Internet protocol.

    Raises:
        InvalidConfiguration: in the constructor, if something is none of these.

    Source: linkerd2-proxy-init, which does the same with iptables.
    """

    inbound: int = 4143
    outbound: int = 4140
    uids: tuple[int, ...] = (2102,)
    gids: tuple[int, ...] = ()
    skip_inbound: tuple[str, ...] = SKIP_INBOUND
    skip_outbound: tuple[str, ...] = SKIP_OUTBOUND
    skip_subnets: tuple[str, ...] = ()
    versions: tuple[Version, ...] = (4, 6)

    def __post_init__(self) -> None:
        for port in (self.inbound, self.outbound):
            if not 0 < port < 65536:
                raise InvalidConfiguration(f"traffic can't be redirected to port {port}: give one from 1 to 65535")
        if self.inbound == self.outbound:
            raise InvalidConfiguration(f"inbound and outbound traffic both go to port {self.inbound}: give two ports")
        if not self.uids and not self.gids:
            problem = "without a user or group of the proxy its own connections come back to it: give --uid or --gid"
            raise InvalidConfiguration(problem)
        for text in (*self.skip_inbound, *self.skip_outbound):
            _ports(text)
        for text in self.skip_subnets:
            _subnet(text)

    def nft(self) -> str:
        """Return the input for ``nft -f -``, which replaces what was there in one step."""
        return (
            f"# Deleted first, if it is there: this can be applied again and again.\n{self.nft_removal()}"
            f"table inet {NFT_TABLE} {{\n{self._nft_inbound()}\n{self._nft_outbound()}}}\n"
        )

    def nft_removal(self) -> str:
        """Return the input for ``nft -f -`` that deletes everything, and is no error where there is nothing."""
        return f"table inet {NFT_TABLE}\ndelete table inet {NFT_TABLE}\n"

    def _nft_inbound(self) -> str:
        return _nft_chain(
            "inbound",
            f"Connections from outside: to the proxy on port {self.inbound}.",
            "prerouting",
            self._nft_versions(),
            ("What stays on this host is not from outside.", 'iifname "lo" return'),
            ("Ports that are skipped, the proxy's own among them.", _nft_set("tcp dport", self.skip_inbound)),
            ("All others.", f"meta l4proto tcp redirect to :{self.inbound}"),
        )

    def _nft_outbound(self) -> str:
        return _nft_chain(
            "outbound",
            f"Connections that programs here make: to the proxy on port {self.outbound}.",
            "output",
            self._nft_versions(),
            (
                "The proxy's own, which would come back to it.",
                _nft_set("meta skuid", self.uids),
                _nft_set("meta skgid", self.gids),
            ),
            ("To a program on this host.", 'oifname "lo" return'),
            (
                "Ports and networks that are skipped.",
                _nft_set("tcp dport", self.skip_outbound),
                _nft_set("ip daddr", self._subnets(4)),
                _nft_set("ip6 daddr", self._subnets(6)),
            ),
            ("All others.", f"meta l4proto tcp redirect to :{self.outbound}"),
        )

    def _nft_versions(self) -> tuple[str, ...]:
        others = [family for version, family in _NFPROTO.items() if version not in self.versions]
        return ("Not captured.", *(f"meta nfproto {family} return" for family in others))

    def iptables(self, version: Version, *, installed: Iterable[str] = ()) -> str:
        """Return the input for ``iptables-restore --noflush`` or ``ip6tables-restore --noflush``.

        Args:
            version: Of the Internet protocol.
            installed: The built-in chains that jump to ours already: that jump is replaced, not doubled.
        """
        inbound, outbound = IPTABLES_CHAINS.values()
        subnets = self._subnets(version)
        rules = [
            *_iptables_jumps("-D", installed),
            f"# Connections from outside: to the proxy on port {self.inbound}, but for ports that are skipped.",
            f"-A {inbound} -i lo -j RETURN",
            *(f"-A {inbound} {match} -j RETURN" for match in _multiport(self.skip_inbound)),
            f"-A {inbound} -p tcp -j REDIRECT --to-ports {self.inbound}",
            f"# Connections that programs here make: to the proxy on port {self.outbound}.",
            "# The proxy's own would come back to it.",
            *(f"-A {outbound} -m owner --uid-owner {uid} -j RETURN" for uid in self.uids),
            *(f"-A {outbound} -m owner --gid-owner {gid} -j RETURN" for gid in self.gids),
            "# A program that talks to another on this host; ports and networks that are skipped.",
            f"-A {outbound} -o lo -j RETURN",
            *(f"-A {outbound} {match} -j RETURN" for match in _multiport(self.skip_outbound)),
            *(f"-A {outbound} -d {subnet} -j RETURN" for subnet in subnets),
            f"-A {outbound} -p tcp -j REDIRECT --to-ports {self.outbound}",
            "# From here on they are in force.",
            *_iptables_jumps("-A", IPTABLES_CHAINS),
        ]
        return _iptables_table(rules)

    def iptables_removal(self, installed: Iterable[str] = tuple(IPTABLES_CHAINS)) -> str:
        """Return the input for ``iptables-restore --noflush`` that deletes everything of ours.

        Args:
            installed: The built-in chains that jump to ours.
        """
        return _iptables_table(
            [*_iptables_jumps("-D", installed), *(f"-X {ours}" for ours in IPTABLES_CHAINS.values())]
        )

    def _subnets(self, version: Version) -> list[str]:
        networks = map(_subnet, self.skip_subnets)
        return [str(network) for network in networks if network.version == version]


# --- nft ---------------------------------------------------------------------------------------

_NFPROTO: dict[Version, str] = {4: "ipv4", 6: "ipv6"}


def _nft_chain(name: str, comment: str, hook: str, *groups: tuple[str, ...]) -> str:
    """Return a chain; each group is a remark and its rules, and is left out if it has none."""
    lines = [f"\t# {comment}", f"\tchain {name} {{", f"\t\ttype nat hook {hook} priority {_NAT}; policy accept;"]
    for remark, *rules in groups:
        if there := [rule for rule in rules if rule]:
            lines += [f"\t\t# {remark}", *(f"\t\t{rule}" for rule in there)]
    return "\n".join([*lines, "\t}", ""])


def _nft_set(match: str, values: Sequence[object]) -> str:
    return f"{match} {{ {', '.join(map(str, values))} }} return" if values else ""


# --- iptables ----------------------------------------------------------------------------------


def _iptables_table(rules: Sequence[str]) -> str:
    # Declaring a chain creates it, or empties it if it is there.
    chains = [f":{ours} - [0:0]" for ours in IPTABLES_CHAINS.values()]
    return "\n".join(["*nat", *chains, *rules, "COMMIT", ""])


def _iptables_jumps(action: str, chains: Iterable[str]) -> list[str]:
    return [f"{action} {chain} -j {IPTABLES_CHAINS[chain]}" for chain in chains]


def _multiport(ports: Sequence[str]) -> list[str]:
    """Return the matches for ports, as many in one as it takes."""
    groups: list[list[str]] = []
    room = 0
    for port in ports:
        size = 2 if "-" in port else 1
        if room < size:
            groups.append([])
            room = _PER_RULE
        groups[-1].append(port.replace("-", ":"))
        room -= size
    return [f"-p tcp -m multiport --dports {','.join(group)}" for group in groups]


def _ports(text: str) -> tuple[int, int]:
    found = _PORTS.fullmatch(text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < first <= last < 65536:
        raise InvalidConfiguration(f"{text!r} is no port to skip: give one from 1 to 65535, or a range as in 8000-8010")
    return first, last


def _subnet(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidConfiguration(f"{text!r} is no network to skip: {error}; write it as in 10.0.0.0/8") from error
