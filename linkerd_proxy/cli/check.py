"""``linkerd-proxy check`` and ``linkerd-proxy schema``: a configuration before it is served."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
import trio

from linkerd_proxy.cli.options import Command

if TYPE_CHECKING:
    from linkerd_proxy.mesh.config.examine import Finding

__all__ = ["check", "schema"]


@click.command(cls=Command, short_help="Explain everything that is wrong with a configuration.")
@click.argument("file", type=click.Path())
@click.option("--ports", is_flag=True, help="Also try whether the listeners' addresses are free.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def check(ctx: click.Context, file: str, ports: bool, as_json: bool) -> None:
    """Look a configuration over before it is served: words that are none, names that lead nowhere, certificates that
    don't match their keys or have expired, regular expressions that can run for ever. Each finding is one line with
    its place in the file and what to do. The exit status is 0 if the file can be served, and 2 if not.
    """  # noqa: D205  # the summary takes two lines
    findings = trio.run(_examine, file, ports)
    errors = sum(one.severity == "error" for one in findings)
    if as_json:
        click.echo(json.dumps({"file": file, "ok": not errors, "findings": [asdict(one) for one in findings]}))
    else:
        for one in findings:
            click.echo(one.told(file), err=one.severity == "error")
        warnings = len(findings) - errors
        if not errors:
            click.echo(
                f"{file} can be served" + (f", with {warnings} warning{'s' * (warnings > 1)}" if warnings else "")
            )
    ctx.exit(2 if errors else 0)


async def _examine(file: str, ports: bool) -> list[Finding]:
    from linkerd_proxy.mesh.config.examine import examine  # other commands have no file to read

    return await examine(file, ports=ports)


@click.command(cls=Command, short_help="Print the JSON Schema of configurations, for editors.")
def schema() -> None:
    """Print the JSON Schema (draft 2020-12) of what "run --config" reads. Editors with YAML support complete and check
    by it: "linkerd-proxy schema > proxy.schema.json", and "# yaml-language-server: $schema=proxy.schema.json" as the
    first line of your file.
    """  # noqa: D205  # the summary takes two lines
    from linkerd_proxy.document.schema import schema as schema_of
    from linkerd_proxy.mesh.config.document import ProxyDocument

    click.echo(json.dumps(schema_of(ProxyDocument), indent=2))
