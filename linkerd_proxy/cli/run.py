"""``linkerd-proxy run``: serve as a sidecar, a reverse proxy, or the stack of a user's own file, until told to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import trio

from linkerd_proxy.cli.options import Command
from linkerd_proxy.cli.plan import Plan, make_plan, plan_options
from linkerd_proxy.cli.serving import serve_plan
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.mesh.signals import outlive_hangups, run_until_signalled

if TYPE_CHECKING:
    from linkerd_proxy.cli.configured import ConfigPlan

__all__ = ["run"]


@click.command(cls=Command, short_help="Serve as a sidecar, a reverse proxy, or the stack in a Python file.")
@click.argument("target", required=False, metavar="[FILE.py:NAME]")
@click.option("--config", metavar="FILE", type=click.Path(), help="Serve what this file describes, YAML or JSON.")
@plan_options
@click.pass_context
def run(ctx: click.Context, /, target: str | None, config: str | None, **values: Any) -> None:
    """Serve until SIGTERM or SIGINT, which drains: readiness goes off, nothing more is accepted, HTTP/2 says GOAWAY,
    HTTP/1 says "Connection: close", what runs may finish, and the exit status is 0. A second signal ends at once.

    \b
    linkerd-proxy run
    linkerd-proxy run --listen 127.0.0.1:8080 --to 127.0.0.1:9000
    linkerd-proxy run my_mesh.py:proxy --listen :8080 --admin 127.0.0.1:4191
    linkerd-proxy run --config proxy.yaml

    The first form is a sidecar, for traffic that "linkerd-proxy redirect" captures: it takes the application's
    connections from outside and those that it makes, each to where it was going. The second detects and proxies
    HTTP/1, HTTP/2 and raw TCP to --to. The third serves the stack of that name in your file or module, or what the
    function of that name returns. The fourth serves what the file describes, and its next version when it changes or
    at SIGHUP (see "check" and "schema").

    With an identity, proxies speak mutual TLS with each other, whatever is inside:

    \b
    linkerd-proxy run --listen :8080 --to 10.0.0.5:8443 --identity web/ --peer-identity api.mesh.local
    linkerd-proxy run --listen :8443 --to 127.0.0.1:9000 --identity api/ --require-identity

    For each address, a line "listening on ADDRESS" is printed when connections are accepted.
    """  # noqa: D205, D301  # click's own way to say "leave these lines as they are"
    if config is None:
        ctx.exit(trio.run(_run, make_plan(ctx, target, values)))
    if target is not None:
        raise click.UsageError("say what to serve: either --config FILE or a stack, as in my_mesh.py:proxy")
    from linkerd_proxy.cli.configured import plan_of  # whoever has no file needs no reader

    ctx.exit(trio.run(_run, plan_of(ctx, config, values)))


async def _run(plan: Plan | ConfigPlan) -> int:
    drain = Drain(plan.grace)

    async def serving() -> None:
        async with trio.open_nursery() as beside:
            if isinstance(plan, Plan):
                await beside.start(outlive_hangups)
            async with trio.open_nursery() as nursery:
                if isinstance(plan, Plan):
                    click.echo(await nursery.start(serve_plan, plan, drain))
                else:
                    from linkerd_proxy.cli.configured import serve_config

                    click.echo(await nursery.start(serve_config, plan, drain))
            beside.cancel_scope.cancel()

    return await run_until_signalled(drain, serving)
