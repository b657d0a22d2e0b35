"""Serve a plan: in this process or by workers, with the admin endpoint beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.cli.plan import Plan
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import Listener, serve
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.admin import admin as admin_stack
from linkerd_proxy.mesh.load import load_stack
from linkerd_proxy.mesh.settled import settle
from linkerd_proxy.mesh.workers import run_workers
from linkerd_proxy.metrics.process import process_metrics
from linkerd_proxy.metrics.registry import Registry, current_registry

__all__ = ["Serving", "serve_plan"]


@dataclass(frozen=True, slots=True)
class Serving:
    """What is being served.

    Args:
        stack: What serves the connections; workers have their own.
        addresses: Where it listens, with the ports that the system chose.
        admin: Where the admin endpoint listens.
    """

    stack: Stack[Connection]
    addresses: tuple[AnyAddress, ...]
    admin: tuple[AnyAddress, ...]

    def __str__(self) -> str:
        lines = [str(self.stack), *(f"listening on {address}" for address in self.addresses)]
        return "\n".join([*lines, *(f"admin on {address}" for address in self.admin)])


async def serve_plan(
    plan: Plan,
    drain: Drain,
    *,
    ready: Callable[[], bool] = lambda: True,
    task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until the drain is over.

    Args:
        plan: What to serve.
        drain: Ends it.
        ready: What ``/ready`` asks beside the proxy itself.
        task_status: Reports what is served, once connections are accepted.

    Raises:
        InvalidConfiguration: if an address, the stack or the workers can't be had.
    """
    stack = load_stack(plan.target, plan.arguments)
    admin_listeners = await open_listeners(plan.admin) if plan.admin is not None else []
    with process_metrics(current_registry()):
        serve_it = _serve_here if plan.workers == 1 else _serve_by_workers
        await serve_it(plan, stack, drain, ready, admin_listeners, task_status)


async def _serve_here(
    plan: Plan,
    stack: Stack[Connection],
    drain: Drain,
    ready: Callable[[], bool],
    admin_listeners: Sequence[Listener],
    task_status: trio.TaskStatus[Serving],
) -> None:
    listeners = await open_listeners(*plan.listen)
    async with trio.open_nursery() as nursery:
        await _serve_admin(nursery, admin_stack(drain, stack, ready=ready), admin_listeners)
        async with trio.open_nursery() as serving:
            await serving.start(lambda *, task_status: serve(stack, listeners, drain=drain, task_status=task_status))
            settle()
            task_status.started(_serving(stack, [one.address for one in listeners], admin_listeners))
        nursery.cancel_scope.cancel()


async def _serve_by_workers(
    plan: Plan,
    stack: Stack[Connection],
    drain: Drain,
    ready: Callable[[], bool],
    admin_listeners: Sequence[Listener],
    task_status: trio.TaskStatus[Serving],
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
            both: Callable[[], bool] = lambda: workers.ready and ready()  # noqa: E731  # of this one's workers
            registry: Callable[[], Awaitable[Registry]] = workers.metrics
            await _serve_admin(nursery, admin_stack(drain, stack, ready=both, registry=registry), admin_listeners)
            task_status.started(_serving(stack, workers.addresses, admin_listeners))
        nursery.cancel_scope.cancel()


async def _serve_admin(nursery: trio.Nursery, stack: Stack[Connection], listeners: Sequence[Listener]) -> None:
    # With a drain of its own, which never starts: it answers until the proxy has ended.
    if listeners:
        await nursery.start(lambda *, task_status: serve(stack, listeners, max_connections=64, task_status=task_status))


def _serving(stack: Stack[Connection], addresses: Sequence[AnyAddress], admin_listeners: Sequence[Listener]) -> Serving:
    return Serving(stack, tuple(addresses), tuple(one.address for one in admin_listeners))
