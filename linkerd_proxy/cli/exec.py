"""``linkerd-proxy exec -- app args``: an application with its sidecar, as one process to whoever runs it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import click
import trio

from linkerd_proxy.address import Address, parse_address
from linkerd_proxy.cli.options import Command
from linkerd_proxy.cli.plan import Plan, make_plan, plan_options
from linkerd_proxy.cli.serving import Readiness, Serving, serve_plan
from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.drain import Drain

__all__ = ["exec_"]


def _numbers(*names: str) -> set[int]:
    return {getattr(signal, name) for name in names if hasattr(signal, name)}  # Windows has few of them


_FORWARDED: set[int] = _numbers("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCONT")
_BY_TERMINAL: set[int] = _numbers("SIGINT", "SIGQUIT", "SIGWINCH")  # it sends them to the application too
_ENDS: set[int] = {signal.SIGTERM, signal.SIGINT}
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as POSIX shells say


@click.command("exec", cls=Command, short_help="Run an application with a proxy before it, as one.")
@click.argument("application", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- APPLICATION [ARGUMENTS]...")
@click.option("--stack", metavar="FILE.py:NAME", help="Serve this stack of your own.")
@plan_options
@click.pass_context
def exec_(ctx: click.Context, /, application: tuple[str, ...], stack: str | None, **values: Any) -> None:
    """Start the proxy, wait until it is ready, run the application, and when that ends, drain and exit with its status
    (128 + N if signal N ended it). For containers and jobs: there is one process to start, to signal and to wait for.

    \b
    linkerd-proxy exec --listen :8080 --to 127.0.0.1:9000 -- gunicorn app:app --bind 127.0.0.1:9000
    linkerd-proxy exec --app 9000 -- gunicorn app:app --bind 127.0.0.1:9000

    Signals are passed on to the application, which the proxy goes on serving until it has ended; from SIGTERM or SIGINT
    on, /ready answers 503. What the proxy has to say goes to standard error: standard output is the application's.

    The application finds in its environment PORT (where the proxy expects it, unless PORT is set already),
    LINKERD_PROXY_LISTEN and LINKERD_PROXY_ADMIN (where the proxy listens). If it can't be started, the status is 127
    where there is no such program, else 126; if the proxy can't, it is 2.
    """  # noqa: D205, D301  # click's own way to say "leave these lines as they are"
    ctx.exit(trio.run(_exec, make_plan(ctx, stack, values), application))


async def _exec(plan: Plan, command: Sequence[str]) -> int:
    readiness = Readiness()
    application = _Application(command, readiness)
    drain = Drain(plan.grace)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(application.pass_signals_on, nursery.cancel_scope)
            async with trio.open_nursery() as serving:

                async def proxy(*, task_status: trio.TaskStatus[Serving]) -> None:
                    await serve_plan(plan, drain, readiness=readiness, task_status=task_status)

                served = await serving.start(proxy)
                click.echo(served, err=True)
                await readiness.wait()
                try:
                    await application.run(_environment(plan, served))
                finally:
                    drain.start()
            nursery.cancel_scope.cancel()
    except ExceptionGroup as failures:
        raise unwrapped(failures) from None
    return application.status


class _Application:
    """The user's program, from before it is started until after it has ended."""

    def __init__(self, command: Sequence[str], readiness: Readiness) -> None:
        self.command = command
        self.readiness = readiness
        self.status = 1
        self._process: trio.Process | None = None

    async def run(self, environment: dict[str, str]) -> None:
        """Run it to its end. Cancellation asks it to end, and kills it after five seconds."""
        try:
            async with trio.open_nursery() as nursery:
                process: trio.Process = await nursery.start(_run_process, self.command, environment)
                self._process = process
        except* (OSError, ValueError) as errors:
            error = unwrapped(errors)
            self.status = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
            reason = error.strerror if isinstance(error, OSError) else str(error)
            click.echo(f"linkerd-proxy: can't run {self.command[0]}: {reason}", err=True)
        else:
            self.status = _status(process.returncode)

    async def pass_signals_on(
        self, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Pass signals on to the application; before it runs, one that ends a program cancels ``scope``."""
        with trio.open_signal_receiver(*_FORWARDED, *_BY_TERMINAL, signal.SIGTERM) as signals:
            task_status.started()
            await self._pass_on(signals, scope)

    async def _pass_on(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        # In the foreground of a terminal the application is too: Ctrl-C must not reach it twice.
        heard = _BY_TERMINAL if sys.stdin is not None and sys.stdin.isatty() else set[int]()
        async for number in signals:
            if number in _ENDS:
                self.readiness.wanted = False
            if self._process is None and number in _ENDS:
                self.status = 128 + number
                scope.cancel()
            elif self._process is not None and number not in heard:
                self._process.send_signal(number)  # nothing happens if it has ended


async def _run_process(
    command: Sequence[str], environment: dict[str, str], *, task_status: trio.TaskStatus[trio.Process]
) -> None:
    await trio.run_process(command, stdin=None, check=False, env=environment, task_status=task_status)


def _status(code: int | None) -> int:
    assert code is not None
    return 128 - code if code < 0 else code


def _environment(plan: Plan, served: Serving) -> dict[str, str]:
    environment = dict(os.environ)
    environment["LINKERD_PROXY_LISTEN"] = ",".join(map(str, served.addresses))
    environment["LINKERD_PROXY_ADMIN"] = ",".join(map(str, served.admin))
    targets = [parse_address(text) for text in plan.applications]
    if len(targets) == 1 and isinstance(targets[0], Address):
        environment.setdefault("PORT", str(targets[0].port))
    return environment
