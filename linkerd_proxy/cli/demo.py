"""``linkerd-proxy demo``: a mesh of two applications, real traffic, and what their sidecars see of it."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from linkerd_proxy._version import __version__
from linkerd_proxy.address import AnyAddress
from linkerd_proxy.cli.demo_view import Lines, Silence, TableView, View, can_draw
from linkerd_proxy.cli.options import ADDRESS, SECONDS, Command
from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import serve
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.io.listen import SocketListener, open_listeners
from linkerd_proxy.metrics.registry import current_registry

if TYPE_CHECKING:
    from linkerd_proxy.cli.demo_figures import Figures, Row
    from linkerd_proxy.cli.demo_mesh import Mesh
    from linkerd_proxy.cli.demo_traffic import Traffic

__all__ = ["demo"]

_RATE = 50.0  # requests a second and protocol: enough to see, too little to heat a laptop
_PROTOCOLS = {"HTTP/1.1": "http/1", "gRPC": "http/2", "TCP": "opaque"}  # as metrics call them
_GRACE = 2.0  # seconds that connections of the demonstration get to end


@click.command(cls=Command, short_help="See a mesh work: two applications, mutual TLS, live figures.")
@click.option(
    "--for", "--duration", "seconds", type=SECONDS, help="End after so many seconds, as in 10 or 2m; else at Ctrl-C."
)
@click.option("--plain", is_flag=True, help="Lines instead of a table that is redrawn.")
@click.option("--json", "as_json", is_flag=True, help="Print nothing but one JSON object, at the end.")
@click.option(
    "--keep",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write its certificates there, and the script that is this demonstration.",
)
@click.option("--admin", type=ADDRESS, help="Serve an admin endpoint there: open it in a browser, or use top and tap.")
@click.pass_context
def demo(
    ctx: click.Context, seconds: float | None, plain: bool, as_json: bool, keep: Path | None, admin: str | None
) -> None:
    """Start a mesh on loopback, on ports that the system chooses: the application web, and three replicas of api, of
    which one is slow and one fails 1 % of its calls. Each has a sidecar, so everything between them has mutual TLS:
    HTTP/1.1, gRPC, and a TCP protocol in which the server speaks first. Web makes 50 requests a second in each of them,
    balanced over the replicas and retried where one fails; the figures are those of "linkerd viz stat".

    The exit status is 0 if 99 % of the requests succeeded and all connections had mutual TLS, else 1.
    """  # noqa: D205  # the summary takes four lines
    view = _view(plain, as_json)
    figures, elapsed = trio.run(_demo, seconds, view, not as_json, keep, admin)
    asked = [row for row in figures if not row.of_replica]
    failed, total = sum(row.failed for row in asked), sum(row.requests for row in asked)
    if as_json:
        summary = {"version": __version__, "seconds": round(elapsed, 3), "requests": total, "failed": failed}
        protocols = {_PROTOCOLS[row.name]: asdict(row) | {"success": row.success} for row in asked}
        replicas = {row.name: asdict(row) | {"success": row.success} for row in figures if row.of_replica}
        click.echo(json.dumps(summary | {"protocols": protocols, "replicas": replicas}))
    else:
        _print_summary(figures, elapsed)
    well = total and failed <= total / 100 and all(row.requests and row.meshed == 100 for row in asked)
    ctx.exit(0 if well else 1)


def _view(plain: bool, as_json: bool) -> View:
    if as_json:
        return Silence()
    return TableView() if not plain and can_draw() else Lines()


async def _demo(
    seconds: float | None, view: View, verbose: bool, keep: Path | None, admin: str | None
) -> tuple[list[Row], float]:
    # What the other commands don't need is loaded here.
    from linkerd_proxy.cli.demo_figures import Figures
    from linkerd_proxy.cli.demo_kept import keep_mesh
    from linkerd_proxy.cli.demo_mesh import start_mesh
    from linkerd_proxy.cli.demo_traffic import Traffic

    drains: list[Drain] = []
    try:
        async with trio.open_nursery() as serving, AsyncExitStack() as ending:

            async def start(stack: Stack[Connection]) -> AnyAddress:
                drains.append(Drain(_GRACE))
                listeners = await open_listeners("127.0.0.1:0")
                serving.start_soon(_serve, stack, listeners, drains[-1])
                return listeners[0].address

            def drain_all() -> None:
                for drain in reversed(drains):
                    drain.start()

            ending.callback(drain_all)
            mesh = await start_mesh(start, random.Random(1))  # the same pretended work in every demonstration
            kept = keep_mesh(keep, mesh) if keep is not None else None
            looking = None if admin is None else await _serve_admin(serving, ending, admin, mesh)
            if verbose:
                _print_introduction(mesh, kept, looking)
            traffic = Traffic(mesh.address, _RATE)
            figures = Figures(traffic.all, current_registry())
            started = trio.current_time()
            await _watch(traffic, view, figures, started, seconds)
            now = trio.current_time()
            elapsed = now - started
            return [*figures.protocols(now, whole=elapsed), *figures.replicas(now, whole=elapsed)], elapsed
    except ExceptionGroup as failures:
        raise unwrapped(failures) from None
    raise AssertionError("the block returns or raises")


async def _serve(stack: Stack[Connection], listeners: Sequence[SocketListener], drain: Drain) -> None:
    await serve(stack, listeners, drain=drain)


async def _watch(traffic: Traffic, view: View, figures: Figures, started: float, seconds: float | None) -> None:
    """Show the traffic until the time is over or a signal comes; a second signal drops what is under way."""
    async with trio.open_nursery() as nursery:
        with view:
            nursery.start_soon(_stop_on_signals, traffic, nursery.cancel_scope)
            async with trio.open_nursery() as running:
                running.start_soon(_show, traffic, view, figures, started)
                if seconds is not None:
                    running.start_soon(_stop_after, traffic, seconds)
                await traffic.run()
                running.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def _show(traffic: Traffic, view: View, figures: Figures, started: float) -> None:
    while True:
        await trio.sleep(view.interval)
        now = trio.current_time()
        failures = [failure for one in traffic.all for failure in one.failures]
        view.show([*figures.protocols(now), *figures.replicas(now)], now - started, failures[-5:])


async def _stop_after(traffic: Traffic, seconds: float) -> None:
    await trio.sleep(seconds)
    traffic.stop()


async def _stop_on_signals(traffic: Traffic, scope: trio.CancelScope) -> None:
    stopping = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            if stopping:
                scope.cancel()
            traffic.stop()
            stopping = True


async def _serve_admin(serving: trio.Nursery, ending: AsyncExitStack, address: str, mesh: Mesh) -> AnyAddress:
    """Serve an admin endpoint as long as the mesh; all of it is in this process, so it tells of both sides."""
    from linkerd_proxy.mesh.admin import admin

    drain = Drain(_GRACE)
    ending.callback(drain.start)
    listeners = await open_listeners(address)
    stack = admin(Drain(), mesh.sidecar, name="both sidecars")
    serving.start_soon(_serve, stack, listeners, drain)
    return listeners[0].address


def _print_introduction(mesh: Mesh, kept: Path | None, admin: AnyAddress | None) -> None:
    click.echo(f"linkerd-proxy {__version__}: two applications, a sidecar each, mutual TLS between them\n")
    click.echo(f"  {mesh.web.name}, whose sidecar listens on {mesh.address}:")
    click.echo("\n".join(f"    {line}" for line in str(mesh.sidecar).splitlines()))
    click.echo(f"  {mesh.api.name}, three replicas: one is slow, one fails 1 % of its calls\n")
    click.echo("Try it meanwhile, as web:")
    click.echo(f"  curl http://{mesh.address}/hello")
    click.echo(f"  curl --http2-prior-knowledge http://{mesh.address}/hello\n")
    if admin is not None:
        click.echo(f"admin on {admin}")
        click.echo(f"  open http://{admin}/ in a browser, or try linkerd-proxy top --admin {admin}\n")
    if kept is not None:
        click.echo(f"Make it your own: python {kept}\n")


def _print_summary(figures: Sequence[Row], elapsed: float) -> None:
    asked = [row for row in figures if not row.of_replica]
    total, failed = sum(row.requests for row in asked), sum(row.failed for row in asked)
    moved = sum(row.bytes_in + row.bytes_out for row in asked)
    retried = sum(row.failed for row in figures if row.of_replica)
    click.echo(f"\n{total} requests in {elapsed:.1f} s, {moved / 1e6:.2f} MB, {failed} failed for web")
    click.echo(f"  {retried} of api's answers were failures; web's sidecar asked another replica")
    for row in figures:
        name, meshed, success, rps, p50, p95, p99, _, peer = row.cells()
        click.echo(
            f"  {name:<12} {rps}/s, {success} succeeded, p50 {p50} ms, p95 {p95} ms, p99 {p99} ms; "
            f"{meshed} with mutual TLS, peer {peer}"
        )
