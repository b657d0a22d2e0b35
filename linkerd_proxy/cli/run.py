"""``linkerd-proxy run``: serve a reverse proxy, or the stack of a user's own file, until told to stop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import click
import trio

from linkerd_proxy.cli.options import ADDRESS, DURATION, LOG_LEVEL
from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import Listener, serve
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.http.h1.codec import make_codec
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.admin import admin as admin_stack
from linkerd_proxy.mesh.load import Argument, load_stack
from linkerd_proxy.mesh.settled import settle
from linkerd_proxy.mesh.signals import drain_on_signals
from linkerd_proxy.mesh.workers import run_workers
from linkerd_proxy.metrics.process import process_metrics
from linkerd_proxy.metrics.registry import current_registry

__all__ = ["run"]

_PREFIX = "LINKERD2_PROXY_"
_REVERSE = "linkerd_proxy.mesh.reverse:reverse_proxy"


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to serve, and how."""

    target: str
    arguments: dict[str, Argument]
    listen: tuple[str, ...]
    admin: str | None
    workers: int
    grace: float


@click.command(short_help="Serve a reverse proxy, or the stack in a Python file.")
@click.argument("target", required=False, metavar="[FILE.py:NAME]")
@click.option(
    "--listen",
    multiple=True,
    type=ADDRESS,
    envvar=f"{_PREFIX}INBOUND_LISTEN_ADDR",
    show_envvar=True,
    help="Where to listen; may be given several times. Port 0 lets the system choose.  [default: 127.0.0.1:8080]",
)
@click.option("--to", multiple=True, type=ADDRESS, help="Where to proxy to; several are taken in turn, with failover.")
@click.option("--opaque", is_flag=True, help="Forward bytes as they are: no detection, no HTTP.")
@click.option(
    "--codec",
    type=click.Choice(["auto", "h11", "httptools"]),
    default="auto",
    envvar=f"{_PREFIX}CODEC",
    show_envvar=True,
    help="The parser of HTTP/1 (auto: httptools where installed).",
)
@click.option(
    "--admin",
    type=ADDRESS,
    envvar=f"{_PREFIX}ADMIN_LISTEN_ADDR",
    show_envvar=True,
    help="Where to serve /live /ready /metrics /config.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    envvar=f"{_PREFIX}CORES",
    show_envvar=True,
    help="How many processes share the port.",
)
@click.option(
    "--grace",
    type=DURATION,
    default="120s",
    envvar=f"{_PREFIX}SHUTDOWN_GRACE_PERIOD",
    show_envvar=True,
    show_default=True,
    help="How long connections may take to end after SIGTERM.",
)
@click.option(
    "--log", type=LOG_LEVEL, default="warn", envvar=f"{_PREFIX}LOG", show_envvar=True, help="The level of the log."
)
@click.pass_context
def run(
    ctx: click.Context,
    target: str | None,
    listen: tuple[str, ...],
    to: tuple[str, ...],
    opaque: bool,
    codec: str,
    admin: str | None,
    workers: int,
    grace: float,
    log: int,
) -> None:
    """Serve until SIGTERM or SIGINT, which drains: readiness goes off, nothing more is accepted, HTTP/2 says GOAWAY,
    HTTP/1 says "Connection: close", what runs may finish, and the exit status is 0. A second signal ends at once.

    \b
    linkerd-proxy run --listen 127.0.0.1:8080 --to 127.0.0.1:9000
    linkerd-proxy run my_mesh.py:proxy --listen :8080 --admin 127.0.0.1:4191

    The first form detects and proxies HTTP/1, HTTP/2 and raw TCP; the second serves the stack of that name in your
    file or module, or what the function of that name returns. For each address, a line "listening on ADDRESS" is
    printed when connections are accepted.
    """  # noqa: D205, D301  # click's own way to say "leave these lines as they are"
    if (target is None) == (not to):
        raise click.UsageError("say what to serve: either --to HOST:PORT or a stack, as in my_mesh.py:proxy")
    if target is not None and (opaque or _given(ctx, "codec")):
        raise click.UsageError("--codec and --opaque belong to --to: a stack of your own says it in its layers")
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("linkerd_proxy").setLevel(log)
    arguments: dict[str, Argument] = {}
    if target is None:
        make_codec(codec)  # type: ignore[arg-type]  # click checked it; this says if its library is missing
        arguments = {"targets": list(to), "codec": codec, "opaque": opaque}
    plan = _Plan(target or _REVERSE, arguments, listen or ("127.0.0.1:8080",), admin, workers, grace)
    ctx.exit(trio.run(_run, plan))


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


async def _run(plan: _Plan) -> int:
    stack = load_stack(plan.target, plan.arguments)
    drain = Drain(plan.grace)
    ended_by: list[int] = []
    try:
        async with trio.open_nursery() as nursery:

            async def signals(*, task_status: trio.TaskStatus[None]) -> None:
                ended_by.append(await drain_on_signals(drain, nursery.cancel_scope, task_status=task_status))

            await nursery.start(signals)
            admin_listeners = await open_listeners(plan.admin) if plan.admin is not None else []
            with process_metrics(current_registry()):
                await (_serve_here if plan.workers == 1 else _serve_by_workers)(plan, stack, drain, admin_listeners)
            nursery.cancel_scope.cancel()
    except ExceptionGroup as failures:
        raise unwrapped(failures) from None
    return 128 + ended_by[0] if ended_by else 0


async def _serve_here(plan: _Plan, stack: Stack[Connection], drain: Drain, admin_listeners: Sequence[Listener]) -> None:
    listeners = await open_listeners(*plan.listen)
    async with trio.open_nursery() as nursery:
        await _serve_admin(nursery, admin_stack(drain, stack), admin_listeners)
        async with trio.open_nursery() as serving:
            await serving.start(lambda *, task_status: serve(stack, listeners, drain=drain, task_status=task_status))
            settle()
            _announce(stack, [str(one.address) for one in listeners], admin_listeners)
        nursery.cancel_scope.cancel()


async def _serve_by_workers(
    plan: _Plan, stack: Stack[Connection], drain: Drain, admin_listeners: Sequence[Listener]
) -> None:
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as serving:
            workers = await serving.start(
                lambda *, task_status: run_workers(
                    plan.target,
                    plan.listen,
                    workers=plan.workers,
                    arguments=plan.arguments,
                    drain=drain,
                    task_status=task_status,
                )
            )
            view = admin_stack(drain, stack, ready=lambda: workers.ready, registry=workers.metrics)
            await _serve_admin(nursery, view, admin_listeners)
            _announce(stack, [str(address) for address in workers.addresses], admin_listeners)
        nursery.cancel_scope.cancel()


async def _serve_admin(nursery: trio.Nursery, stack: Stack[Connection], listeners: Sequence[Listener]) -> None:
    # With a drain of its own, which never starts: it answers until the proxy has ended.
    if listeners:
        await nursery.start(lambda *, task_status: serve(stack, listeners, max_connections=64, task_status=task_status))


def _announce(stack: Stack[Connection], addresses: list[str], admin_listeners: Sequence[Listener]) -> None:
    lines = [str(stack), *(f"listening on {address}" for address in addresses)]
    lines += [f"admin on {one.address}" for one in admin_listeners]
    click.echo("\n".join(lines))
