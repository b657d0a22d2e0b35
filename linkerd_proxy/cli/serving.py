"""Serve a plan: in this process or by workers, with the admin endpoint beside it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import trio

from linkerd_proxy.address import Address, AnyAddress
from linkerd_proxy.cli.plan import Plan
from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import Listener, serve
from linkerd_proxy.core.shared import hosting
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.io.listen import SocketListener, open_listeners
from linkerd_proxy.mesh.admin import admin as admin_stack
from linkerd_proxy.mesh.admin import serve_admin
from linkerd_proxy.mesh.identities import find_identity, own_name
from linkerd_proxy.mesh.inside import THIS_RUN
from linkerd_proxy.mesh.load import Argument, load_stack
from linkerd_proxy.mesh.open_telemetry import otlp_metrics_from_environment
from linkerd_proxy.mesh.readiness import follow_identity
from linkerd_proxy.mesh.reserve import reserve
from linkerd_proxy.mesh.settled import settle
from linkerd_proxy.mesh.tap_server import tap_server
from linkerd_proxy.mesh.workers import Workers, run_workers
from linkerd_proxy.metrics.process import process_metrics
from linkerd_proxy.metrics.registry import Registry, current_registry
from linkerd_proxy.tls.identity import Identity

__all__ = ["Readiness", "Serving", "serve_plan"]

logger: logging.Logger = logging.getLogger("linkerd_proxy")


class Readiness:
    """Whether the proxy takes traffic: what ``/ready`` answers, and what an application may wait for."""

    def __init__(self) -> None:
        self.wanted: bool = True
        """Turned off by whoever wants no new work to be sent here, while it goes on serving."""
        self._certified = True
        self._reached = trio.Event()

    def set_certified(self, certified: bool) -> None:
        """Note whether the proxy can prove who it is."""
        self._certified = certified
        if certified:
            self._reached.set()

    def __bool__(self) -> bool:
        return self.wanted and self._certified

    async def wait(self) -> None:
        """Wait until the proxy can prove who it is, for the first time."""
        if not self._certified:
            await self._reached.wait()


@dataclass(frozen=True, slots=True)
class Serving:
    """What is being served.

    Args:
        stack: What serves the connections; workers have their own.
        addresses: Where it listens, with the ports that the system chose.
        outbound: Where it listens for the application's own connections.
        admin: Where the admin endpoint listens.
        tap: Where Linkerd's tap listens.
    """

    stack: Stack[Connection]
    addresses: tuple[AnyAddress, ...]
    outbound: tuple[AnyAddress, ...]
    admin: tuple[AnyAddress, ...]
    tap: tuple[AnyAddress, ...] = ()

    def __str__(self) -> str:
        lines = [str(self.stack), *(f"listening on {address}" for address in self.addresses)]
        lines += [f"outbound on {address}" for address in self.outbound]
        lines += [f"admin on {address}" for address in self.admin]
        return "\n".join([*lines, *(f"tap on {address}" for address in self.tap)])


async def serve_plan(
    plan: Plan,
    drain: Drain,
    *,
    readiness: Readiness | None = None,
    task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until the drain is over.

    Args:
        plan: What to serve.
        drain: Ends it.
        readiness: Kept up to date, and heeded by ``/ready``.
        task_status: Reports what is served, once connections are accepted.

    Raises:
        InvalidConfiguration: if an address, the stack, an identity or the workers can't be had.
    """
    readiness = readiness or Readiness()
    identity = None if plan.identity is None else find_identity(plan.identity or None)
    try:
        with process_metrics(current_registry()):
            if plan.workers == 1:
                async with hosting():
                    await _serve_here(plan, drain, readiness, identity, task_status)
            else:
                await _serve_by_workers(plan, drain, readiness, identity, task_status)
    except ExceptionGroup as failures:
        raise unwrapped(failures) from None


def _load(plan: Plan, outbound: Sequence[AnyAddress], identity: Identity | None) -> Stack[Connection]:
    """Return the stack, and warn if it is plaintext: after what is wrong with the options has been told."""
    stack = load_stack(plan.target, _arguments(plan, outbound))
    if plan.identity is not None and identity is None:
        logger.warning(
            "there is no identity: nothing is encrypted or authenticated by this proxy; give --identity DIR "
            "(linkerd-proxy authority issue makes one)"
        )
    return stack


async def _serve_here(
    plan: Plan,
    drain: Drain,
    readiness: Readiness,
    identity: Identity | None,
    task_status: trio.TaskStatus[Serving],
) -> None:
    redirected = bool(plan.outbound)
    async with AsyncExitStack() as held, trio.open_nursery() as nursery:
        outbound = await _listen(held, *plan.outbound, original_dst=redirected)
        stack = _load(plan, [one.address for one in outbound], identity)
        admin_listeners = await _listen(held, plan.admin)
        tap_listeners = await _listen(held, plan.tap) if plan.tap_identities else []
        listeners = await _listen(held, *plan.listen, original_dst=redirected)
        if identity is not None:
            readiness.set_certified(False)
            nursery.start_soon(follow_identity, identity, readiness.set_certified)
        view = admin_stack(
            drain, stack, ready=lambda: bool(readiness), shutdown=plan.shutdown, name=_shown_name(plan.identity)
        )
        await serve_admin(nursery, view, admin_listeners)
        if identity is not None and tap_listeners:
            await serve_admin(nursery, tap_server(identity, *plan.tap_identities), tap_listeners)
        async with _exporting(plan, THIS_RUN.metrics), trio.open_nursery() as serving:
            both = [*listeners, *outbound]
            await serving.start(lambda *, task_status: serve(stack, both, drain=drain, task_status=task_status))
            settle()
            task_status.started(_serving(stack, listeners, outbound, admin_listeners, tap_listeners))
        nursery.cancel_scope.cancel()


async def _serve_by_workers(
    plan: Plan,
    drain: Drain,
    readiness: Readiness,
    identity: Identity | None,
    task_status: trio.TaskStatus[Serving],
) -> None:
    async with AsyncExitStack() as held:
        # Ports that the system chooses are the same for all workers, and the stack knows them.
        outbound = [held.enter_context(one) for text in plan.outbound for one in await reserve(text)]
        stack = _load(plan, [one.address for one in outbound], identity)
        admin_listeners = await _listen(held, plan.admin)
        tap_listeners = await _listen(held, plan.tap) if plan.tap_identities else []

        async def run(*, task_status: trio.TaskStatus[Workers]) -> None:
            await run_workers(
                plan.target,
                [*plan.listen, *(one.address for one in outbound)],
                workers=plan.workers,
                arguments=_arguments(plan, [one.address for one in outbound]),
                drain=drain,
                original_dst=bool(plan.outbound),
                identity=None if identity is None else plan.identity,
                task_status=task_status,
            )

        running: list[Workers] = []

        async def metrics() -> Registry:
            return await running[0].metrics() if running else current_registry()

        async with trio.open_nursery() as nursery:
            async with _exporting(plan, metrics), trio.open_nursery() as serving:
                workers: Workers = await serving.start(run)
                running.append(workers)
                if identity is not None:
                    readiness.set_certified(False)
                    nursery.start_soon(_follow_workers, workers, readiness)
                view = admin_stack(
                    drain,
                    stack,
                    ready=lambda: workers.ready and bool(readiness),
                    inside=workers,
                    shutdown=plan.shutdown,
                    name=_shown_name(plan.identity),
                )
                await serve_admin(nursery, view, admin_listeners)
                if identity is not None and tap_listeners:
                    tap = tap_server(identity, *plan.tap_identities, taps=workers.tapped)
                    await serve_admin(nursery, tap, tap_listeners)
                inbound = workers.addresses[: len(workers.addresses) - len(outbound)]
                there = [one.address for one in outbound]
                task_status.started(_serving(stack, inbound, there, admin_listeners, tap_listeners))
            nursery.cancel_scope.cancel()


def _shown_name(identity: str | None) -> str:
    """Return how the live view calls the proxy: as its peers do, where that is known from the start."""
    try:
        return "proxy" if identity is None else own_name(identity or None)
    except InvalidConfiguration:  # a SPIFFE agent will tell, or there is no identity
        return "proxy"


async def _listen(held: AsyncExitStack, *addresses: str | None, original_dst: bool = False) -> list[SocketListener]:
    """Open listeners that are closed with the block, whoever else closes them before."""
    listeners = await open_listeners(*filter(None, addresses), original_dst=original_dst)
    for listener in listeners:
        held.callback(listener.close)
    return listeners


@asynccontextmanager
async def _exporting(plan: Plan, metrics: Callable[[], Awaitable[Registry]]) -> AsyncIterator[None]:
    """Send metrics to a collector inside the block, if the plan says so."""
    if not plan.otlp_metrics:
        yield
        return
    otlp = otlp_metrics_from_environment()
    if otlp is None:
        raise InvalidConfiguration(
            "--otlp-metrics has nowhere to send them: set OTEL_EXPORTER_OTLP_ENDPOINT, as in http://otel-collector:4318"
        )
    async with otlp.exporting(metrics):
        yield


async def _follow_workers(workers: Workers, readiness: Readiness) -> None:
    await workers.wait_certified()
    readiness.set_certified(True)  # from now on the workers tell, each for itself


def _arguments(plan: Plan, outbound: Sequence[AnyAddress]) -> dict[str, Argument]:
    if not outbound:
        return plan.arguments
    ports = sorted({one.port for one in outbound if isinstance(one, Address)})
    return plan.arguments | {"outbound_ports": list(map(str, ports))}


def _serving(
    stack: Stack[Connection],
    inbound: Sequence[Listener | AnyAddress],
    outbound: Sequence[Listener | AnyAddress],
    admin: Sequence[Listener | AnyAddress],
    tap: Sequence[Listener | AnyAddress] = (),
) -> Serving:
    return Serving(stack, _addresses(inbound), _addresses(outbound), _addresses(admin), _addresses(tap))


def _addresses(of: Sequence[Listener | AnyAddress]) -> tuple[AnyAddress, ...]:
    return tuple(one if isinstance(one, AnyAddress) else one.address for one in of)
