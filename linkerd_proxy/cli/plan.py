"""What ``run`` and ``exec`` have in common: their options, and the plan of what to serve that comes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import click

from linkerd_proxy.cli.options import ADDRESS, DURATION, LOG_LEVEL
from linkerd_proxy.http.h1.codec import make_codec
from linkerd_proxy.mesh.load import Argument

__all__ = ["PREFIX", "Plan", "Values", "make_plan", "plan_options"]

PREFIX = "LINKERD2_PROXY_"
"""Of Linkerd's environment variables."""
_REVERSE = "linkerd_proxy.mesh.reverse:reverse_proxy"
_OF_REVERSE = ("codec", "opaque", "access_log", "trace")

Values: TypeAlias = Mapping[str, Any]  # what click passes: each option's value by its name
_F = TypeVar("_F", bound=Callable[..., object])

_OPTIONS = (
    click.option(
        "--listen",
        multiple=True,
        type=ADDRESS,
        envvar=f"{PREFIX}INBOUND_LISTEN_ADDR",
        show_envvar=True,
        help="Where to listen; may be given several times. Port 0 lets the system choose.  [default: 127.0.0.1:8080]",
    ),
    click.option(
        "--to", multiple=True, type=ADDRESS, help="Where to proxy to; several are taken in turn, with failover."
    ),
    click.option("--opaque", is_flag=True, help="Forward bytes as they are: no detection, no HTTP."),
    click.option(
        "--codec",
        type=click.Choice(["auto", "h11", "httptools"]),
        default="auto",
        envvar=f"{PREFIX}CODEC",
        show_envvar=True,
        help="The parser of HTTP/1 (auto: httptools where installed).",
    ),
    click.option(
        "--access-log",
        type=click.Choice(["apache", "combined", "json", "structlog"]),
        envvar=f"{PREFIX}ACCESS_LOG",
        show_envvar=True,
        help="Write a line for each request to standard output.",
    ),
    click.option(
        "--trace",
        is_flag=True,
        help="Take part in traces that are sampled; spans go where OTEL_EXPORTER_OTLP_ENDPOINT says.",
    ),
    click.option(
        "--admin",
        type=ADDRESS,
        envvar=f"{PREFIX}ADMIN_LISTEN_ADDR",
        show_envvar=True,
        help="Where to serve /live /ready /metrics /config.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1, 256),
        default=1,
        envvar=f"{PREFIX}CORES",
        show_envvar=True,
        help="How many processes share the port.",
    ),
    click.option(
        "--grace",
        type=DURATION,
        default="120s",
        envvar=f"{PREFIX}SHUTDOWN_GRACE_PERIOD",
        show_envvar=True,
        show_default=True,
        help="How long connections may take to end in a drain.",
    ),
    click.option(
        "--log", type=LOG_LEVEL, default="warn", envvar=f"{PREFIX}LOG", show_envvar=True, help="The level of the log."
    ),
)


def plan_options(command: _F) -> _F:
    """Give a command the options that :func:`make_plan` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Plan:
    """What to serve, and how: plain data, for workers make the stack anew from it.

    Args:
        target: What :func:`~linkerd_proxy.mesh.load.load_stack` reads.
        arguments: For the target, if it is a function.
        listen: Where to listen.
        admin: Where to serve the admin endpoint, or None.
        workers: How many processes.
        grace: Seconds for a drain.
        applications: Where the proxy reaches what it stands before.
    """

    target: str
    arguments: dict[str, Argument]
    listen: tuple[str, ...]
    admin: str | None
    workers: int
    grace: float
    applications: tuple[str, ...] = ()


def make_plan(ctx: click.Context, target: str | None, values: Values) -> Plan:
    """Return the plan that the options make, and set the log's level.

    Args:
        ctx: The command's, which knows what was given on its line.
        target: The stack of the user's own to serve, if there is one.
        values: The options.

    Raises:
        click.UsageError, InvalidConfiguration: if they don't fit together.
    """
    to: tuple[str, ...] = values["to"]
    if (target is None) == (not to):
        raise click.UsageError("say what to serve: either --to HOST:PORT or a stack, as in my_mesh.py:proxy")
    if target is not None and any(_given(ctx, name) for name in _OF_REVERSE):
        raise click.UsageError(
            "--codec, --opaque, --access-log and --trace belong to --to: a stack of your own says it in its layers"
        )
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("linkerd_proxy").setLevel(values["log"])
    arguments: dict[str, Argument] = {}
    if target is None:
        make_codec(values["codec"])  # click checked it; this says if its library is missing
        arguments = {"targets": list(to), **{name: values[name] for name in _OF_REVERSE if values[name]}}
    return Plan(
        target or _REVERSE,
        arguments,
        values["listen"] or ("127.0.0.1:8080",),
        values["admin"],
        values["workers"],
        values["grace"],
        to,
    )


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
