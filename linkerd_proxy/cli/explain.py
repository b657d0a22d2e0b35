"""``linkerd-proxy explain CODE``: what a failure code means."""

from __future__ import annotations

import difflib
import textwrap

import click

from linkerd_proxy.cli.options import Command
from linkerd_proxy.errors import CODES
from linkerd_proxy.mesh.explanations import EXPLANATIONS, OTHERS, meaning

__all__ = ["explain"]

_INDENT = 17  # where the text of a paragraph begins


@click.command(cls=Command, short_help="Say what a failure code means, or list them all.")
@click.argument("code", required=False)
def explain(code: str | None) -> None:
    """Say what a failure code means, what usually causes it, where to look and what to do.

    The code stands in the l5d-proxy-error header, in the log line and in the metrics' label "error". Without one, all
    codes are listed.
    """
    if code is None:
        for known in (*sorted(CODES), *sorted(OTHERS)):
            click.echo(f"{known:<7} {_meaning(known)}")
        return
    found = code.upper()
    if found not in EXPLANATIONS:
        near = difflib.get_close_matches(found, EXPLANATIONS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else "without a code, explain lists them all"
        raise click.UsageError(f"there is no failure code {code}: {hint}")
    explanation = EXPLANATIONS[found]
    click.echo(f"{found}: {_meaning(found)}")
    _paragraph("cause", explanation.cause)
    _paragraph("where to look", explanation.look)
    _paragraph("what to do", explanation.remedy)
    if found in CODES:
        error = CODES[found]
        _paragraph("answered with", f"HTTP {error.status}, gRPC {error.grpc_status.value} {error.grpc_status.name}")
        _paragraph("in Python", f"linkerd_proxy.errors.{error.__name__}")


def _meaning(code: str) -> str:
    return meaning(code).replace("``", "")  # the docs' mark-up of names


def _paragraph(title: str, text: str) -> None:
    first = f"  {title}".ljust(_INDENT)
    # Lines of a terminal's width are not broken inside names, which people copy.
    lines = textwrap.wrap(text, 100, initial_indent=first, subsequent_indent=" " * _INDENT, break_long_words=False,
                          break_on_hyphens=False)  # fmt: skip
    click.echo("\n".join(lines))
