"""What ``run`` and ``exec`` have in common: their options, and the plan of what to serve that comes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import click

from linkerd_proxy.address import UnixAddress, parse_address
from linkerd_proxy.cli.options import ADDRESS, DURATION, LOG_LEVEL, TARGET, TIMEOUT
from linkerd_proxy.http.h1.codec import make_codec
from linkerd_proxy.io.loopback import loopbacks
from linkerd_proxy.mesh.commanded import app_address
from linkerd_proxy.mesh.load import Argument
from linkerd_proxy.mesh.log_format import FORMATS, log_to
from linkerd_proxy.mesh.log_level import apply_log_level

__all__ = ["PREFIX", "Plan", "Values", "make_plan", "plan_options"]

PREFIX = "LINKERD2_PROXY_"
"""Of Linkerd's environment variables."""
_REVERSE = "linkerd_proxy.mesh.commanded:reverse"
_SIDECAR = "linkerd_proxy.mesh.commanded:sidecar"

Values: TypeAlias = Mapping[str, Any]  # what click passes: each option's value by its name
_F = TypeVar("_F", bound=Callable[..., object])


def _given_as(*names: str, variable: str | list[str] | None = None, **more: Any) -> Callable[[_F], _F]:
    variables = [variable] if isinstance(variable, str) else variable
    known = None if variables is None else [f"{PREFIX}{one}" for one in variables]
    return click.option(*names, envvar=known, show_envvar=known is not None, **more)


def _timeout(name: str, default: str, variable: str, text: str) -> Callable[[_F], _F]:
    return _given_as(name, type=TIMEOUT, default=default, show_default=True, variable=variable, help=text)


_OPTIONS = (
    _given_as(
        "--listen",
        multiple=True,
        type=ADDRESS,
        variable="INBOUND_LISTEN_ADDR",
        help="Where to listen; may be given several times. Port 0 lets the system choose.  "
        "[default: :4143 as a sidecar, else 127.0.0.1:8080]",
    ),
    _given_as("--to", multiple=True, type=TARGET, help="Where to proxy to; several are taken in turn, with failover."),
    _given_as("--opaque", is_flag=True, help="With --to, forward bytes as they are: no detection, no HTTP."),
    _given_as(
        "--identity",
        metavar="IDDIR",
        help="The proxy's identity: a directory with ca.pem, cert.pem and key.pem, read anew when they change. Clients "
        "can then speak TLS with it.  [default: as the environment tells a sidecar, or an option that needs one]",
    ),
    _given_as("--require-identity", is_flag=True, help="Refuse clients that don't prove who they are by mutual TLS."),
    _given_as(
        "--peer-identity",
        metavar="NAME",
        help="The --to is a proxy of the mesh with this name: speak mutual TLS with it, and carry HTTP/1 as HTTP/2.",
    ),
    _given_as(
        "--app",
        metavar="ADDRESS",
        type=TARGET,
        help="As a sidecar, where the application is.  [default: where each one was going]",
    ),
    _given_as(
        "--peer",
        multiple=True,
        metavar="DESTINATION=IDENTITY[@PORT]",
        help="As a sidecar, a destination in the mesh, what its proxy must prove, and where that one listens "
        "(4143). May be given several times.",
    ),
    _given_as(
        "--gateway-suffixes",
        default="",
        variable="INBOUND_GATEWAY_SUFFIXES",
        help="As a sidecar, the domains that peers may reach through this proxy, as in west.example,east.example.",
    ),
    _given_as(
        "--gateway-local",
        is_flag=True,
        help="Such names may lead to this host itself too, to its loopback among others.",
    ),
    _given_as(
        "--outbound",
        multiple=True,
        type=ADDRESS,
        variable=["OUTBOUND_LISTEN_ADDRS", "OUTBOUND_LISTEN_ADDR"],
        help="As a sidecar, where to listen for the application's own connections.  [default: port 4140 on loopback]",
    ),
    _given_as(
        "--opaque-ports",
        default="default",
        variable="INBOUND_PORTS_DISABLE_PROTOCOL_DETECTION",
        help="As a sidecar, ports to which nobody speaks HTTP, as in 25,8000-8010: what goes there is passed on "
        "unread, l5d-client-id among it, whoever sends it.  [default: Linkerd's list]",
    ),
    _given_as(
        "--codec",
        type=click.Choice(["auto", "h11", "httptools"]),
        default="auto",
        variable="CODEC",
        help="The parser of HTTP/1 (auto: httptools where installed).",
    ),
    _given_as(
        "--access-log",
        type=click.Choice(["apache", "combined", "json", "structlog"]),
        variable="ACCESS_LOG",
        help="Write a line for each request to standard output.",
    ),
    _given_as(
        "--trace",
        is_flag=True,
        help="Take part in traces that are sampled; spans go where OTEL_EXPORTER_OTLP_ENDPOINT says.",
    ),
    _given_as(
        "--otlp-metrics",
        is_flag=True,
        help="Send metrics where OTEL_EXPORTER_OTLP_ENDPOINT says, by OTLP with exponential histograms.",
    ),
    _timeout("--detect-timeout", "10s", "INBOUND_DETECT_TIMEOUT", "How long clients have to show what they speak."),
    _timeout("--connect-timeout", "1s", "INBOUND_CONNECT_TIMEOUT", "How long connecting to the application may take."),
    _timeout("--outbound-detect-timeout", "10s", "OUTBOUND_DETECT_TIMEOUT", "The same for the application's own."),
    _timeout("--outbound-connect-timeout", "1s", "OUTBOUND_CONNECT_TIMEOUT", "The same for connecting to elsewhere."),
    _given_as(
        "--admin",
        type=ADDRESS,
        variable="ADMIN_LISTEN_ADDR",
        help="Where to serve /live /ready /metrics /config.  [default: 127.0.0.1:4191 as a sidecar]",
    ),
    _given_as(
        "--shutdown-endpoint",
        is_flag=True,
        variable="SHUTDOWN_ENDPOINT_ENABLED",
        help="Let clients on this host end the proxy by POST /shutdown at --admin, which drains as SIGTERM does.",
    ),
    _given_as(
        "--tap-identity",
        multiple=True,
        metavar="NAME",
        variable="TAP_SVC_NAME",
        help="Who may watch live requests by Linkerd's tap, gRPC over mutual TLS; may be given several times.",
    ),
    _given_as(
        "--tap",
        type=ADDRESS,
        default=":4190",
        variable="CONTROL_LISTEN_ADDR",
        help="Where to serve that tap.  [default: :4190 with --tap-identity]",
    ),
    _given_as(
        "--workers",
        type=click.IntRange(1, 256),
        default=1,
        variable="CORES",
        help="How many processes share the ports.",
    ),
    _given_as(
        "--grace",
        type=DURATION,
        default="120s",
        variable="SHUTDOWN_GRACE_PERIOD",
        show_default=True,
        help="How long connections may take to end in a drain.",
    ),
    _given_as("--log", type=LOG_LEVEL, default="warn", variable="LOG", help="The level of the log."),
    _given_as(
        "--log-format",
        type=click.Choice(FORMATS, case_sensitive=False),
        default="PLAIN",
        show_default=True,
        variable="LOG_FORMAT",
        help="Lines of text, or of JSON.",
    ),
)
_OURS = {"codec", "identity", "require_identity", "detect_timeout", "connect_timeout", "access_log", "trace"}
_TO_ONLY = {"opaque", "peer_identity"}
_SIDECAR_ONLY = {
    "gateway_suffixes",
    "gateway_local",
    "app",
    "peer",
    "outbound",
    "opaque_ports",
    "outbound_detect_timeout",
    "outbound_connect_timeout",
}


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
        outbound: Where to listen for the application's own connections; the target is told of these ports.
        admin: Where to serve the admin endpoint, or None.
        workers: How many processes.
        grace: Seconds for a drain.
        identity: What readiness follows: a directory, empty for what the environment says, or None for nothing.
        applications: Where the proxy reaches what it stands before.
        otlp_metrics: Whether metrics are sent where the environment says.
        tap: Where to serve Linkerd's tap, if somebody may ask for it.
        tap_identities: Who may.
        shutdown: Whether the admin endpoint takes ``POST /shutdown``.
    """

    target: str
    arguments: dict[str, Argument]
    listen: tuple[str, ...]
    outbound: tuple[str, ...]
    admin: str | None
    workers: int
    grace: float
    identity: str | None = None
    applications: tuple[str, ...] = ()
    otlp_metrics: bool = False
    tap: str = ":4190"
    tap_identities: tuple[str, ...] = ()
    shutdown: bool = False


def make_plan(ctx: click.Context, target: str | None, values: Values) -> Plan:
    """Return the plan that the options make, and set the log's level.

    Args:
        ctx: The command's, which knows what was given on its line.
        target: The stack of the user's own to serve, if there is one.
        values: The options.

    Raises:
        click.UsageError, InvalidConfiguration: if they don't fit together.
    """
    log_to(form=values["log_format"])
    apply_log_level(values["log"])
    if not values["tap_identity"]:
        _refuse(ctx, {"tap"}, "belongs to --tap-identity NAME, which says who may watch")
    if target is not None:
        if values["to"]:
            raise click.UsageError("say what to serve: either --to HOST:PORT or a stack, as in my_mesh.py:proxy")
        _refuse(ctx, _OURS | _TO_ONLY | _SIDECAR_ONLY, "is not for a stack of your own, which says it in its layers")
        return _plan(values, target, {}, "127.0.0.1:8080")
    make_codec(values["codec"])  # click checked it; this says if its library is missing
    arguments: dict[str, Argument] = {name: values[name] for name in sorted(_OURS)}
    if values["to"]:
        _refuse(ctx, _SIDECAR_ONLY, "is for a sidecar, which has no --to")
        arguments |= {"targets": list(values["to"]), "opaque": values["opaque"]}
        arguments["peer_identity"] = values["peer_identity"]
        needed = values["identity"] or values["require_identity"] or values["peer_identity"]
        identity = (values["identity"] or "") if needed else None
        return _plan(values, _REVERSE, arguments, "127.0.0.1:8080", identity=identity, applications=values["to"])
    _refuse(ctx, _TO_ONLY, "belongs to --to HOST:PORT")
    arguments |= {name: values[name] for name in sorted(_SIDECAR_ONLY - {"peer", "outbound"})}
    arguments["peers"] = list(values["peer"])
    app = None if values["app"] is None else app_address(values["app"])
    return _plan(
        {**values, "admin": values["admin"] or "127.0.0.1:4191"},
        _SIDECAR,
        arguments,
        ":4143",
        outbound=values["outbound"] or tuple(loopbacks(4140)),
        identity=values["identity"] or "",
        applications=() if app is None else (app,),
    )


def _plan(
    values: Values,
    target: str,
    arguments: dict[str, Argument],
    listen: str,
    *,
    outbound: tuple[str, ...] = (),
    identity: str | None = None,
    applications: tuple[str, ...] = (),
) -> Plan:
    if values["tap_identity"] and identity is None:
        raise click.UsageError("--tap-identity shows requests by mutual TLS: give it an --identity")
    inbound = values["listen"] or (listen,)
    taps = (values["tap"],) if values["tap_identity"] else ()
    _refuse_twice([*inbound, *outbound, *filter(None, [values["admin"]]), *taps])
    if values["shutdown_endpoint"] and not values["admin"]:
        raise click.UsageError("--shutdown-endpoint is a page of the admin endpoint: give it an --admin ADDRESS")
    return Plan(
        target,
        arguments,
        inbound,
        outbound,
        values["admin"],
        values["workers"],
        values["grace"],
        identity,
        applications,
        values["otlp_metrics"],
        values["tap"],
        values["tap_identity"],
        values["shutdown_endpoint"],
    )


def _refuse_twice(addresses: Sequence[str]) -> None:
    """Refuse to listen twice at one address: the system would say that "somebody" listens there already."""
    parsed = [parse_address(one) for one in addresses]
    for address in parsed:
        if parsed.count(address) > 1 and (isinstance(address, UnixAddress) or address.port):
            raise click.UsageError(f"{address} is given twice to listen on: give each listener an address of its own")


def _refuse(ctx: click.Context, names: set[str], why: str) -> None:
    """Refuse options that were given where they mean nothing."""
    for name in sorted(names):
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} {why}")
