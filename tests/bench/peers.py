"""How each proxy is configured: one worker, keep-alive on both sides, no access log."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Mode = str
"""``tcp``, ``http1`` or ``http2``."""


class Absent(Exception):
    """A program is not installed; the message says how to get it."""


@dataclass(frozen=True)
class Plan:
    """One proxy in one mode: what makes its command.

    ``certificates`` holds ``ca.pem``, ``cert.pem`` and ``key.pem``; with ``terminate`` clients come with TLS 1.3 and
    a certificate is asked of them, with ``originate`` the proxy goes on with mutual TLS.
    """

    mode: Mode
    port: int
    backend: int
    directory: Path
    certificates: Path | None = None
    terminate: bool = False
    originate: bool = False

    def write(self, name: str, text: str) -> str:
        """Write a configuration file and return its path."""
        path = self.directory / f"{self.mode}-{self.port}-{name}"
        path.write_text(text)
        return str(path)


def program(name: str, package: str) -> str:
    """Return the path of an installed program.

    Raises:
        Absent: naming the package.
    """
    beside = Path(sys.executable).with_name(name)
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise Absent(f"{name} is not installed ({package})")
    return path


# --- this project ------------------------------------------------------------------------------


def ours(plan: Plan, *options: str) -> list[str]:
    """The command as a user runs it: detection and metrics on."""
    listen, to = f"127.0.0.1:{plan.port}", f"127.0.0.1:{plan.backend}"
    identity = ["--identity", str(plan.certificates)] if plan.terminate or plan.originate else []
    peer = ["--peer-identity", NAME] if plan.originate else []
    command = [program("linkerd-proxy", "this project"), "run", "--listen", listen, "--to", to]
    return [*command, *identity, *peer, *options]


def ours_stack(variant: str) -> Callable[[Plan], list[str]]:
    """A stack of tests/bench/stacks.py, which the command has no option for."""

    def command(plan: Plan) -> list[str]:
        return [sys.executable, "-m", "tests.bench.stacks", variant, str(plan.port), str(plan.backend)]

    return command


# --- HAProxy, nginx, mitmproxy -----------------------------------------------------------------


def haproxy(plan: Plan, options: str = "", pipes: int = 0) -> list[str]:
    """HAProxy with one thread; ``options`` go into the defaults, ``pipes`` are those that splice(2) may take."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    mode = "tcp" if plan.mode == "tcp" else "http"
    h2 = " proto h2" if plan.mode == "http2" else ""
    tls = ""
    if plan.terminate:
        files = [plan.certificates / name for name in ("cert.pem", "key.pem")] if plan.certificates else []
        both = plan.write("haproxy.pem", "".join(file.read_text() for file in files))
        tls = f" ssl crt {both} ca-file {plan.certificates}/ca.pem verify optional ssl-min-ver TLSv1.3 no-tls-tickets"
    text = f"""\
global
    nbthread 1
    maxconn {(soft - 2 * pipes) // 2 - 100}
    maxpipes {pipes}
defaults
    mode {mode}
    timeout connect 1s
    timeout client 300s
    timeout server 300s
    timeout http-keep-alive 300s
    {options}
listen bench
    bind 127.0.0.1:{plan.port}{h2}{tls}
    server backend 127.0.0.1:{plan.backend}{h2}
"""
    return [program("haproxy", "apt install haproxy"), "-db", "-f", plan.write("haproxy.cfg", text)]


def haproxy_splice(plan: Plan) -> list[str]:
    """HAProxy that moves bytes with splice(2), which is off unless asked for."""
    return haproxy(plan, "option splice-auto", pipes=64)


def nginx(plan: Plan) -> list[str]:
    """nginx with one worker, and keep-alive to its upstream, which is off unless asked for."""
    if plan.mode == "tcp":
        return _nginx_stream(plan)
    location = """\
        proxy_pass http://backend;
        proxy_http_version 1.1;
        proxy_set_header Connection "";"""
    return nginx_command(
        plan,
        f"""\
    upstream backend {{ server 127.0.0.1:{plan.backend}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
      listen 127.0.0.1:{plan.port};
      location / {{
{location}
      }}
    }}""",
    )


def _nginx_stream(plan: Plan) -> list[str]:
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    if not module.exists():
        raise Absent("nginx has no stream module (apt install libnginx-mod-stream)")
    text = f"""\
load_module {module};
daemon off; user {_user()}; worker_processes 1; pid {plan.directory}/nginx-{plan.port}.pid; error_log stderr crit;
events {{ worker_connections 20000; }}
stream {{ server {{ listen 127.0.0.1:{plan.port}; proxy_pass 127.0.0.1:{plan.backend}; }} }}
"""
    return [program("nginx", "apt install nginx"), "-c", plan.write("nginx.conf", text)]


def nginx_command(plan: Plan, servers: str) -> list[str]:
    """Nginx with an ``http`` block of these servers."""
    temporary = "\n".join(
        f"    {kind}_temp_path {plan.directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = f"""\
daemon off; user {_user()}; worker_processes 1; pid {plan.directory}/nginx-{plan.port}.pid; error_log stderr crit;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
{temporary}
{servers}
}}
"""
    return [program("nginx", "apt install nginx"), "-c", plan.write("nginx.conf", text)]


def _user() -> str:
    return "root" if os.getuid() == 0 else os.environ.get("USER", "nobody")


def mitmdump() -> str:
    """Return the path of mitmdump, whose dependencies' pins ask for an environment of its own.

    Raises:
        Absent: saying where it was looked for.
    """
    given = os.environ.get("MITMDUMP")
    beside = Path(".nox/mitmproxy/bin/mitmdump")
    path = given or (str(beside.resolve()) if beside.exists() else shutil.which("mitmdump"))
    if path is None:
        raise Absent("mitmdump is not installed (nox -s bench makes it an environment, or set MITMDUMP)")
    return path


def mitmproxy(plan: Plan) -> list[str]:
    """mitmdump as a reverse proxy."""
    return [
        mitmdump(),
        "--quiet",
        "--mode",
        f"reverse:http://127.0.0.1:{plan.backend}@127.0.0.1:{plan.port}",
        "--set",
        f"confdir={plan.directory}/mitmproxy",
    ]


# --- backends ----------------------------------------------------------------------------------

ANSWER = "hello, world!"
NAME = "localhost"
"""The name in the certificates: load generators send the host of their URL as SNI."""
TEN = tuple(f"127.0.0.{last}" for last in range(2, 12))
"""Where the endpoints of a balancer are: other addresses of the loopback, which Linux needs no set-up for."""
SERVICES = 99
"""Rules ``/service/0``, ``/service/1`` ... of a route, beside one for everything else."""


def backend(plan: Plan) -> list[str]:
    """Nginx that answers every request with 13 bytes, in HTTP/1.1 or in HTTP/2 without TLS."""
    h2 = " http2" if plan.mode == "http2" else ""
    return nginx_command(
        plan,
        f"""\
    server {{
      listen 127.0.0.1:{plan.port}{h2} backlog=4096;
      default_type text/plain;
      location / {{ return 200 "{ANSWER}"; }}
      location /item/ {{ add_header x-request-id $request_id; return 200 "{ANSWER}"; }}
    }}""",
    )


def ten_backends(plan: Plan) -> list[str]:
    """The same at :data:`TEN`, and at 127.0.0.1 for whoever knows of one only."""
    listens = "\n".join(f"      listen {host}:{plan.port} backlog=4096;" for host in ("127.0.0.1", *TEN))
    return nginx_command(
        plan,
        f"""\
    server {{
{listens}
      default_type text/plain;
      location / {{ return 200 "{ANSWER}"; }}
    }}""",
    )


def bulk_backend(plan: Plan) -> list[str]:
    """A Python process that sends as many bytes as it is asked for."""
    return [sys.executable, "-m", "tests.bench.bulk", str(plan.port)]
