"""``linkerd-proxy run --config FILE``: serve what a file describes, and its next version when it changes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, closing, suppress
from dataclasses import dataclass, replace

import click
import trio

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import Listener
from linkerd_proxy.core.shared import hosting
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.core.work import Connection
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.admin import admin as admin_stack
from linkerd_proxy.mesh.admin import serve_admin
from linkerd_proxy.mesh.config.beside import exporting, tapped
from linkerd_proxy.mesh.config.configuration import Bound, Configuration, Shown
from linkerd_proxy.mesh.config.document import ProxyDocument
from linkerd_proxy.mesh.config.doors import Doors
from linkerd_proxy.mesh.config.looking import AdminEntry
from linkerd_proxy.mesh.config.read import read_config
from linkerd_proxy.mesh.config.worker import TARGET, as_arguments, reload_on_hangup
from linkerd_proxy.mesh.inside import THIS_RUN, Inside
from linkerd_proxy.mesh.log_format import log_to
from linkerd_proxy.mesh.log_level import apply_log_level
from linkerd_proxy.mesh.reserve import reserve
from linkerd_proxy.mesh.settled import settle
from linkerd_proxy.mesh.tap_stream import TapReader, TapWish
from linkerd_proxy.mesh.workers import Workers, run_workers
from linkerd_proxy.metrics.bounds import Bounds
from linkerd_proxy.metrics.process import process_metrics
from linkerd_proxy.metrics.registry import Registry, current_registry

__all__ = ["ConfigPlan", "Serving", "plan_of", "serve_config"]

_OWN = {"admin", "shutdown_endpoint", "workers", "grace", "log", "log_format"}
"""Options that win over what the file says."""


@dataclass(frozen=True, slots=True)
class ConfigPlan:
    """What to serve: a file, and what it says with the command line's word on it.

    Args:
        path: The file.
        document: What it said when it was read.
        admin: Where to serve the admin endpoint, or None.
        looked_at: What that one is like.
        workers: How many processes.
        grace: Seconds for a drain.
        own_grace: The same, if it is not the file's.
        shutdown: Whether the admin endpoint takes ``POST /shutdown``, whatever the file says.
    """

    path: str
    document: ProxyDocument
    admin: str | AnyAddress | None
    looked_at: AdminEntry | None
    workers: int
    grace: float
    own_grace: float | None
    shutdown: bool = False


def plan_of(ctx: click.Context, path: str, values: dict[str, object]) -> ConfigPlan:
    """Return the plan of a file, and set the log's level.

    Raises:
        click.UsageError, InvalidConfiguration: if the file or the options can't be used.
    """
    given = {name for name in values if _is_given(ctx, name)}
    for name in sorted(given - _OWN - {"config"}):
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} says what the file of --config says: leave out either")
    document = read_config(path)
    looked_at = document.looked_at
    workers: int = values["workers"] if "workers" in given else document.workers  # type: ignore[assignment]
    admin = values["admin"] if "admin" in given else looked_at and looked_at.address
    if values["shutdown_endpoint"] and not admin:
        raise click.UsageError("--shutdown-endpoint is a page of the admin endpoint: give it an --admin ADDRESS")
    log_to(form=str(values["log_format"]))
    apply_log_level(str(values["log"]) if "log" in given else document.log)
    return ConfigPlan(
        path,
        document,
        admin,  # type: ignore[arg-type]  # click checked it
        looked_at,
        workers,
        values["grace"] if "grace" in given else document.grace,  # type: ignore[arg-type]
        values["grace"] if "grace" in given else None,  # type: ignore[arg-type]
        bool(values["shutdown_endpoint"]),
    )


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) not in {None, click.core.ParameterSource.DEFAULT}


@dataclass(frozen=True, slots=True)
class Serving:
    """What is being served.

    Args:
        stack: What serves the connections.
        bound: Where each listener listens, with the ports that the system chose.
        admin: Where the admin endpoint listens.
        tap: Where Linkerd's tap listens.
    """

    stack: Stack[Connection]
    bound: Bound
    admin: tuple[AnyAddress, ...]
    tap: tuple[AnyAddress, ...] = ()

    def __str__(self) -> str:
        lines = [str(self.stack)]
        lines += [f"listening on {address}" for addresses in self.bound.values() for address in addresses]
        lines += [f"admin on {address}" for address in self.admin]
        return "\n".join([*lines, *(f"tap on {address}" for address in self.tap)])


async def serve_config(
    plan: ConfigPlan, drain: Drain, *, task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve until the drain is over.

    Args:
        plan: What to serve.
        drain: Ends it.
        task_status: Reports what is served, once connections are accepted.

    Raises:
        InvalidConfiguration: if an address, the stack or the workers can't be had.
    """
    # One that comes while nobody listens yet must not end the process; workers inherit this.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    admin_listeners = await open_listeners(plan.admin) if plan.admin is not None else []
    with process_metrics(current_registry()):
        if plan.workers == 1:
            await _serve_here(plan, drain, admin_listeners, task_status)
        else:
            await _serve_by_workers(plan, drain, admin_listeners, task_status)


async def _serve_here(
    plan: ConfigPlan, drain: Drain, admin_listeners: Sequence[Listener], task_status: trio.TaskStatus[Serving]
) -> None:
    certified = _Certified()
    with closing(Doors(drain)) as doors:
        async with doors.changing_to(replace(plan.document, grace=plan.grace)) as bound:
            configuration = Configuration(plan.path, plan.document, bound=bound, listening=doors, grace=plan.own_grace)
        # What is shared outlives those who follow it, beside the stacks that use it.
        async with hosting(), trio.open_nursery() as nursery, AsyncExitStack() as held:
            await nursery.start(reload_on_hangup, configuration)
            view = _admin(plan, drain, configuration, ready=lambda: certified.now)
            await serve_admin(nursery, view, admin_listeners)
            tap = await held.enter_async_context(tapped(configuration))
            await held.enter_async_context(exporting(configuration, THIS_RUN.metrics))
            async with opened(configuration.swap) as service, trio.open_nursery() as serving:
                await serving.start(doors.serve, service)
                nursery.start_soon(configuration.follow)
                nursery.start_soon(configuration.follow_identity, certified.set)
                settle()
                task_status.started(Serving(configuration.swap.stack, bound, _addresses(admin_listeners), tap))
            await held.aclose()
            nursery.cancel_scope.cancel()


class _Certified:
    """Whether the proxy can prove who it is."""

    def __init__(self) -> None:
        self.now = False

    def set(self, certified: bool) -> None:
        self.now = certified


async def _serve_by_workers(
    plan: ConfigPlan, drain: Drain, admin_listeners: Sequence[Listener], task_status: trio.TaskStatus[Serving]
) -> None:
    redirected = {entry.original_dst for entry in plan.document.listeners.values()}
    if len(redirected) > 1:
        raise InvalidConfiguration("workers: all listeners have original_dst or none; make two proxies, or workers: 1")
    with ExitStack() as held:
        bound: dict[str, list[AnyAddress]] = {}
        for name, entry in plan.document.listeners.items():
            bound[name] = [held.enter_context(one).address for one in await reserve(entry.address)]
        configuration = Configuration(plan.path, plan.document, bound=bound)  # what is shown, and checked first

        async def run(*, task_status: trio.TaskStatus[Workers]) -> None:
            await run_workers(
                TARGET,
                [one for addresses in bound.values() for one in addresses],
                workers=plan.workers,
                arguments=as_arguments(plan.path, bound, plan.own_grace),
                drain=drain,
                original_dst=redirected == {True},
                task_status=task_status,
            )

        running: list[Workers] = []

        async def metrics() -> Registry:
            return await running[0].metrics() if running else current_registry()

        def taps(wish: TapWish) -> AbstractAsyncContextManager[TapReader]:
            return (running[0] if running else THIS_RUN).tapped(wish)

        async with trio.open_nursery() as nursery:
            # Metrics are sent until the workers have ended, whose last figures are among them.
            async with (
                exporting(configuration, metrics),
                tapped(configuration, taps) as tap,
                trio.open_nursery() as serving,
            ):
                workers: Workers = await serving.start(run)
                running.append(workers)
                view = _admin(plan, drain, configuration, ready=lambda: workers.ready, inside=workers)
                await nursery.start(_pass_on_hangup, workers)
                nursery.start_soon(configuration.follow)
                await serve_admin(nursery, view, admin_listeners)
                task_status.started(Serving(configuration.swap.stack, bound, _addresses(admin_listeners), tap))
            nursery.cancel_scope.cancel()


async def _pass_on_hangup(workers: Workers, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            for pid in workers.pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGHUP)


def _admin(
    plan: ConfigPlan,
    drain: Drain,
    configuration: Configuration,
    *,
    ready: Callable[[], bool],
    inside: Inside = THIS_RUN,
) -> Stack[Connection]:
    entry = plan.looked_at
    return admin_stack(
        drain,
        Shown(configuration),
        ready=ready,
        bounds=Bounds() if entry is None else entry.buckets(),
        shutdown=plan.shutdown or (entry is not None and entry.shutdown),
        inside=inside,
        name=(entry.name if entry is not None else None) or _name(configuration),
    )


def _name(configuration: Configuration) -> str:
    identity = configuration.document.identity
    if identity is None:
        return "proxy"
    try:
        return identity.own_name(configuration.base)
    except InvalidConfiguration:  # an agent will tell, or the certificate is not there yet
        return "proxy"


def _addresses(listeners: Sequence[Listener]) -> tuple[AnyAddress, ...]:
    return tuple(listener.address for listener in listeners)
