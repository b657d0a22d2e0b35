"""``linkerd-proxy authority serve``: certificates over the network, by Linkerd's protocol."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import trio

from linkerd_proxy.address import UnixAddress
from linkerd_proxy.cli.options import ADDRESS, DURATION, LOG_LEVEL, Command
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import Listener, serve
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.errors import NoCredentials
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.admin import admin as admin_stack
from linkerd_proxy.mesh.authority import Certifier, authority_stacks
from linkerd_proxy.mesh.authority_users import Users
from linkerd_proxy.mesh.log_level import apply_log_level
from linkerd_proxy.mesh.settled import settle
from linkerd_proxy.mesh.signals import run_until_signalled
from linkerd_proxy.metrics.process import process_metrics
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.tls.stored import StoredAuthority

__all__ = ["serve_authority"]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to serve, and where."""

    certifier: Certifier
    listen: tuple[str, ...]
    admin: str | None
    rate: float
    grace: float


@click.command("serve", cls=Command, short_help="Issue certificates over the network.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--listen",
    multiple=True,
    type=ADDRESS,
    help="Where to listen: TCP speaks TLS, unix:/path does not; may be given several times.  [default: 127.0.0.1:8443]",
)
@click.option("--name", help="Its own name, which clients check.  [default: authority.TRUST-DOMAIN]")
@click.option(
    "--allow",
    multiple=True,
    metavar="USER=NAME",
    help="On a Unix socket this user may have this name; may be given several times.",
)
@click.option(
    "--allow-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A file of lines with a user and his names. Read anew when it changes.",
)
@click.option("--lifetime", type=DURATION, default="1d", show_default=True, help="How long certificates are valid.")
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    default=20.0,
    show_default=True,
    help="Requests a second of each identity, and from each address of callers that have none yet.",
)
@click.option("--admin", type=ADDRESS, help="Where to serve /live /ready /metrics /config.")
@click.option(
    "--grace", type=DURATION, default="10s", show_default=True, help="How long calls may take to end after SIGTERM."
)
@click.option("--log", type=LOG_LEVEL, default="info", show_default=True, help="The level of the log.")
@click.pass_context
def serve_authority(
    ctx: click.Context,
    directory: Path,
    listen: tuple[str, ...],
    name: str | None,
    allow: tuple[str, ...],
    allow_file: Path | None,
    lifetime: float,
    rate: float,
    admin: str | None,
    grace: float,
    log: str,
) -> None:
    """Serve the authority in DIR until SIGTERM or SIGINT, by Linkerd's protocol (identity.Identity/Certify).

    A caller gets the certificate that it asks for if it shows that the name is its own: by a valid certificate of that
    name on its connection, by a token of "authority token", or on a Unix socket by its user. Each one that is issued is
    a line in DIR/issued.log. The files in DIR are read anew when they change.

    \b
    linkerd-proxy authority serve /var/lib/mesh --listen :8443
    linkerd-proxy authority serve /var/lib/mesh --listen unix:/run/mesh.sock --allow www-data=web.mesh.local
    """  # noqa: D301  # click's own way to say "leave these lines as they are"
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    apply_log_level(log)
    stored = StoredAuthority(directory)
    found = stored.current()
    found.check_valid()
    found.issue(f"check.{found.trust_domain}", lifetime=lifetime)  # a lifetime that is none shows now
    users = Users(allow, allow_file, found.check_name)
    own = found.check_name(name or f"authority.{found.trust_domain}")
    certifier = Certifier(stored, own=own, users=users, lifetime=lifetime)
    ctx.exit(trio.run(_run, _Plan(certifier, listen or ("127.0.0.1:8443",), admin, rate, grace)))


async def _run(plan: _Plan) -> int:
    drain = Drain(plan.grace)
    with process_metrics(current_registry()):
        return await run_until_signalled(drain, lambda: _serve(plan, drain))


async def _serve(plan: _Plan, drain: Drain) -> None:
    tcp, unix = authority_stacks(plan.certifier, rate=plan.rate)
    # Any user may connect to a Unix socket: which one it is decides what he gets.
    listeners = await open_listeners(*plan.listen, unix_mode=0o666)
    by_kind = [
        (stack, [one for one in listeners if isinstance(one.address, UnixAddress) is is_unix])
        for stack, is_unix in ((tcp, False), (unix, True))
    ]
    async with trio.open_nursery() as nursery:
        admin_listeners = await open_listeners(plan.admin) if plan.admin is not None else []
        if admin_listeners:
            view = admin_stack(drain, tcp, ready=lambda: _is_valid(plan.certifier))
            await nursery.start(_serving, view, admin_listeners, Drain())
        async with trio.open_nursery() as serving:
            for stack, those in by_kind:
                if those:
                    await serving.start(_serving, stack, those, drain)
            settle()
            lines = [f"{plan.certifier.own}, {plan.certifier.authority.current()!r}"]
            lines += [f"listening on {one.address}" for one in listeners]
            lines += [f"admin on {one.address}" for one in admin_listeners]
            click.echo("\n".join(lines))
        nursery.cancel_scope.cancel()


async def _serving(
    stack: Stack[Connection],
    listeners: Sequence[Listener],
    drain: Drain,
    *,
    task_status: trio.TaskStatus[Sequence[Listener]],
) -> None:
    await serve(stack, listeners, drain=drain, max_connections=1000, task_status=task_status)


def _is_valid(certifier: Certifier) -> bool:
    try:
        certifier.authority.current().check_valid()
    except NoCredentials:
        return False
    return True
