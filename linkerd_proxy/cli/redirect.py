"""``linkerd-proxy redirect``: show, apply or remove the rules by which the kernel hands connections to the proxy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click
import trio

from linkerd_proxy.cli.options import Command
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.capture import PROGRAMS, Tool, apply_redirect, find_tool, remove_redirect
from linkerd_proxy.mesh.redirect import SKIP_INBOUND, SKIP_OUTBOUND, Redirect

__all__ = ["redirect"]

_UID = "2102"  # the user that Linkerd's proxy runs as

if TYPE_CHECKING:
    _StrParam = click.ParamType[str]
else:  # generic from click 8.5 on
    _StrParam = click.ParamType


class _Ids(_StrParam):
    """A user's or a group's number, or its name."""

    def __init__(self, name: str, numbers: Callable[[str], int]) -> None:
        self.name = name
        self._numbers = numbers

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value.isascii() and value.isdigit() and int(value) < 1 << 32:
            return value
        try:
            return str(self._numbers(value))
        except KeyError:
            self.fail(f"there is no {self.name} {value!r} here: give a number", param, ctx)


def _user(name: str) -> int:
    import pwd  # Unix only

    return pwd.getpwnam(name).pw_uid


def _group(name: str) -> int:
    import grp  # Unix only

    return grp.getgrnam(name).gr_gid


@click.command(cls=Command, short_help="Show, apply or remove the rules that capture TCP traffic.")
@click.option("--print", "show", is_flag=True, help="Print the rules, for you to read or to apply yourself.")
@click.option("--apply", is_flag=True, help="Put the rules in force, in the place of those of an earlier --apply.")
@click.option("--remove", is_flag=True, help="Take the rules away; with --print, print what does so.")
@click.option("--tool", type=click.Choice(["nft", "iptables"]), help="Which one.  [default: nft where installed]")
@click.option("--inbound-port", type=int, default=4143, show_default=True, help="Where connections from outside go.")
@click.option("--outbound-port", type=int, default=4140, show_default=True, help="Where those of programs here go.")
@click.option(
    "--uid",
    "uids",
    multiple=True,
    type=_Ids("user", _user),
    help=f"The user that the proxy runs as, who is not captured; may be given several times.  [default: {_UID}]",
)
@click.option("--gid", "gids", multiple=True, type=_Ids("group", _group), help="The same for a group.")
@click.option(
    "--skip-inbound-ports",
    default=",".join(SKIP_INBOUND),
    show_default=True,
    help="Ports that connections from outside reach without the proxy, as in 22,8000-8010.",
)
@click.option(
    "--skip-outbound-ports",
    default=",".join(SKIP_OUTBOUND),
    show_default=True,
    help="Ports elsewhere that programs here reach without the proxy.",
)
@click.option(
    "--skip-subnets", default="", help="Networks that they reach without the proxy, as in 10.0.0.0/8,fd00::/8."
)
@click.option("--ipv6/--no-ipv6", default=True, help="Whether to capture IPv6 too.  [default: ipv6]")
def redirect(
    show: bool,
    apply: bool,
    remove: bool,
    tool: Tool | None,
    inbound_port: int,
    outbound_port: int,
    uids: tuple[str, ...],
    gids: tuple[str, ...],
    skip_inbound_ports: str,
    skip_outbound_ports: str,
    skip_subnets: str,
    ipv6: bool,
) -> None:
    """Let the kernel hand every TCP connection of this host, container or network namespace to the proxy, without any
    change in the programs: connections from outside to the inbound port, those that programs make to the outbound port.
    The proxy learns where each was going. Linux only; --apply and --remove need root.

    \b
    linkerd-proxy redirect --print
    linkerd-proxy redirect --apply --uid proxy --skip-inbound-ports 22,4191
    linkerd-proxy redirect --remove

    What the user (or group) of the proxy does is not captured, so run the proxy as that user. Connections on the
    loopback interface are never captured. Applying again replaces; removing leaves no trace.
    """  # noqa: D205, D301  # click's own way to say "leave these lines as they are"
    if show + apply + remove != 1 and not (show and remove and not apply):
        raise click.UsageError("say what to do: one of --print, --apply and --remove")
    rules = Redirect(
        inbound_port,
        outbound_port,
        tuple(map(int, uids or (() if gids else (_UID,)))),
        tuple(map(int, gids)),
        _listed(skip_inbound_ports),
        _listed(skip_outbound_ports),
        _listed(skip_subnets),
        (4, 6) if ipv6 else (4,),
    )
    chosen = tool or find_tool()
    if show:
        click.echo(_text(rules, chosen or "nft", remove=remove), nl=False)
        return
    if sys.platform != "linux":
        raise InvalidConfiguration(f"{sys.platform} has no nft and no iptables: redirect works on Linux")
    if chosen is None:
        raise InvalidConfiguration("neither nft nor iptables is installed: apt install nftables")
    trio.run(apply_redirect if apply else remove_redirect, rules, chosen)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _text(rules: Redirect, tool: Tool, *, remove: bool) -> str:
    if tool == "nft":
        return f"# for: nft -f -\n{rules.nft_removal() if remove else rules.nft()}"
    return "".join(
        f"# for: {PROGRAMS[version]}-restore --noflush\n"
        + (rules.iptables_removal() if remove else rules.iptables(version))
        for version in rules.versions
    )
