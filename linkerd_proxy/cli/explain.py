"""``linkerd-proxy explain CODE``: what a failure code means."""

from __future__ import annotations

import difflib
import inspect

import click

from linkerd_proxy.errors import CODES, ProxyError

__all__ = ["explain"]

# Codes of metrics and logs that belong to no error of the proxy's own.
_OTHERS = {
    "CANCEL": "The client went away before it had the whole answer, or the proxy was ended meanwhile.",
    "IO": "A socket failed on the client's side: a reset, or an error of the system.",
    "BUG": "An error that the proxy did not expect. Its trace-back is logged at the level debug: please report it.",
}


@click.command(short_help="Say what a failure code means, or list them all.")
@click.argument("code", required=False)
def explain(code: str | None) -> None:
    """Say what a failure code means.

    The code stands in the l5d-proxy-error header, in the log line and in the metrics' label "error". Without one, all
    codes are listed.
    """
    if code is None:
        for known in sorted(CODES):
            click.echo(f"{known:<7} {_meaning(CODES[known])}")
        for known, meaning in sorted(_OTHERS.items()):
            click.echo(f"{known:<7} {meaning}")
        return
    found = code.upper()
    if found in _OTHERS:
        click.echo(f"{found}: {_OTHERS[found]}")
        return
    if found not in CODES:
        near = difflib.get_close_matches(found, [*CODES, *_OTHERS], n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else "without a code, explain lists them all"
        raise click.UsageError(f"there is no failure code {code}: {hint}")
    error = CODES[found]
    click.echo(f"{found}: {_meaning(error)}")
    click.echo(f"  answered with  HTTP {error.status}, gRPC {error.grpc_status.value} {error.grpc_status.name}")
    if error.remedy:
        click.echo(f"  what to do     {error.remedy}")
    click.echo(f"  in Python      linkerd_proxy.errors.{error.__name__}")


def _meaning(error: type[ProxyError]) -> str:
    text = inspect.getdoc(error) or ""
    return " ".join(text.partition("\n\n")[0].split())
