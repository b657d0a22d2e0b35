"""``linkerd-proxy demo``: three applications, a proxy before them, real traffic, and what the proxy sees of it."""

from __future__ import annotations

import json
import random
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict

import click
import trio

from linkerd_proxy._version import __version__
from linkerd_proxy.address import AnyAddress
from linkerd_proxy.cli.demo_apps import Echo, demo_proxy, grpc_app, web_app
from linkerd_proxy.cli.demo_traffic import Traffic
from linkerd_proxy.cli.demo_view import Lines, Row, Silence, TableView, View, rich_is_installed, rows
from linkerd_proxy.cli.options import SECONDS
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import serve
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.io.listen import SocketListener, open_listeners
from linkerd_proxy.metrics.registry import current_registry

__all__ = ["demo"]

_RATE = 50.0  # requests a second and protocol: enough to see, too little to heat a laptop
_GRACE = 2.0  # seconds that connections of the demonstration get to end


@click.command(short_help="See it work: applications, a proxy, live traffic and figures.")
@click.option("--for", "seconds", type=SECONDS, help="End after so many seconds, as in 10 or 2m; else at Ctrl-C.")
@click.option("--plain", is_flag=True, help="Lines instead of a table that is redrawn.")
@click.option("--json", "as_json", is_flag=True, help="Print nothing but one JSON object, at the end.")
@click.pass_context
def demo(ctx: click.Context, seconds: float | None, plain: bool, as_json: bool) -> None:
    """Start an HTTP application, one that is shaped like gRPC and a TCP echo, all on loopback and on ports that the
    system chooses, with one proxy before them; send 50 requests a second in each protocol; and show how they fare.

    The exit status is 0 if every request succeeded, else 1.
    """  # noqa: D205  # the summary takes two lines
    view = _view(plain, as_json)
    figures, elapsed = trio.run(_demo, seconds, view, not as_json)
    failed = sum(row.failed for row in figures)
    if as_json:
        summary = {"version": __version__, "seconds": round(elapsed, 3), "failed": failed}
        protocols = {row.protocol: asdict(row) | {"success": row.success} for row in figures}
        click.echo(json.dumps(summary | {"protocols": protocols}))
    else:
        _print_summary(figures, elapsed, failed)
    ctx.exit(1 if failed or not all(row.requests for row in figures) else 0)


def _view(plain: bool, as_json: bool) -> View:
    if as_json:
        return Silence()
    return TableView() if not plain and sys.stdout.isatty() and rich_is_installed() else Lines()


async def _demo(seconds: float | None, view: View, verbose: bool) -> tuple[list[Row], float]:
    rng = random.Random(1)  # the same pretended work in every demonstration
    drains: list[Drain] = []
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
        web, grpc, echo = await start(web_app(rng)), await start(grpc_app(rng)), await start(Echo())
        proxy = demo_proxy(web, grpc, echo)
        address = await start(proxy)
        if verbose:
            _print_introduction(proxy, address, (web, grpc, echo))
        traffic = Traffic(address, _RATE)
        started = trio.current_time()
        await _watch(traffic, view, started, seconds)
        elapsed = trio.current_time() - started
        return rows(traffic.all, current_registry(), trio.current_time(), whole=elapsed), elapsed


async def _serve(stack: Stack[Connection], listeners: Sequence[SocketListener], drain: Drain) -> None:
    await serve(stack, listeners, drain=drain)


async def _watch(traffic: Traffic, view: View, started: float, seconds: float | None) -> None:
    """Show the traffic until the time is over or a signal comes; a second signal drops what is under way."""
    async with trio.open_nursery() as nursery:
        with view:
            nursery.start_soon(_stop_on_signals, traffic, nursery.cancel_scope)
            async with trio.open_nursery() as running:
                running.start_soon(_show, traffic, view, started, running.cancel_scope)
                if seconds is not None:
                    running.start_soon(_stop_after, traffic, seconds)
                await traffic.run()
                running.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def _show(traffic: Traffic, view: View, started: float, scope: trio.CancelScope) -> None:
    while True:
        await trio.sleep(view.interval)
        now = trio.current_time()
        failures = [failure for one in traffic.all for failure in one.failures]
        view.show(rows(traffic.all, current_registry(), now), now - started, failures[-5:])


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


def _print_introduction(proxy: Stack[Connection], address: AnyAddress, apps: Sequence[AnyAddress]) -> None:
    web, grpc, echo = (str(app).rpartition(":")[2] for app in apps)
    click.echo(f"linkerd-proxy {__version__}: one port, three protocols\n")
    click.echo("\n".join(f"  {line}" for line in str(proxy).splitlines()))
    click.echo(f"\n  behind it, on 127.0.0.1: HTTP {web}, gRPC-shaped {grpc}, TCP echo {echo}")
    click.echo(f"  listening on {address}\n")
    click.echo("Try it meanwhile:")
    click.echo(f"  curl http://{address}/hello")
    click.echo(f"  curl --http2-prior-knowledge -d me http://{address}/hello\n")


def _print_summary(figures: Sequence[Row], elapsed: float, failed: int) -> None:
    total = sum(row.requests for row in figures)
    connections = sum(row.connections for row in figures)
    moved = sum(row.bytes_in + row.bytes_out for row in figures)
    click.echo(
        f"\n{total} requests in {elapsed:.1f} s over {connections} connections, {moved / 1e6:.2f} MB, {failed} failed"
    )
    for row in figures:
        _, rps, success, p50, p95, p99, *_ = row.cells()
        click.echo(f"  {row.title:<11} {rps}/s, {success} succeeded, p50 {p50} ms, p95 {p95} ms, p99 {p99} ms")
