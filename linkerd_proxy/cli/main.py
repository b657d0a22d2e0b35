"""The command ``linkerd-proxy``: its groups, its help, and errors on one line."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence

import click

from linkerd_proxy._version import __version__
from linkerd_proxy.cli.authority import authority
from linkerd_proxy.cli.check import check, schema
from linkerd_proxy.cli.demo import demo
from linkerd_proxy.cli.exec import exec_
from linkerd_proxy.cli.explain import explain
from linkerd_proxy.cli.redirect import redirect
from linkerd_proxy.cli.run import run
from linkerd_proxy.cli.tap import tap
from linkerd_proxy.cli.top import top
from linkerd_proxy.errors import InvalidConfiguration, ProxyError

__all__ = ["cli", "main"]

_GROUPS = {
    "Try": ("demo",),
    "Run": ("run", "check", "schema", "exec", "redirect", "authority"),
    "Look": ("top", "tap", "explain"),
}


class _Commands(click.Group):
    """A group whose help is in groups, and that knows what a mistyped command was meant to be."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        for title, names in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), self.commands[name].get_short_help_str(80)) for name in names])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.commands, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(self.commands)}"
            raise click.UsageError(f"there is no command {name}: {hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="'linkerd-proxy COMMAND --help' tells more.",
)
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A micro-proxy: detects and proxies HTTP/1, HTTP/2 and raw TCP, or serves the layers of your own script."""
    if ctx.invoked_subcommand is None:
        click.echo(f"linkerd-proxy {__version__}\n")
        click.echo(ctx.get_help())


cli.add_command(demo)
cli.add_command(run)
cli.add_command(check)
cli.add_command(schema)
cli.add_command(exec_)
cli.add_command(redirect)
cli.add_command(authority)
cli.add_command(top)
cli.add_command(tap)
cli.add_command(explain)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 2 after an error, which is told on one line.

    Args:
        arguments: Those after the program's name; by default the process's own.
    """
    try:
        status = cli.main(
            None if arguments is None else list(arguments), prog_name="linkerd-proxy", standalone_mode=False
        )
    except click.Abort:
        return 130
    except click.ClickException as error:
        return _failed(error.format_message())
    except (InvalidConfiguration, ProxyError) as error:
        return _failed(str(error))
    except BrokenPipeError:  # whoever read our output has what he wanted
        sys.stderr.close()
        return 1
    except BaseExceptionGroup as group:
        # Control-C is raised wherever the program is, often within a nursery.
        if group.split(KeyboardInterrupt)[1] is not None:
            raise
        return 130
    except OSError as error:  # a file that may not be read, say: the system's words are clear enough
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return status if isinstance(status, int) else 0


def _failed(problem: str) -> int:
    click.echo(f"linkerd-proxy: {' '.join(problem.split())}", err=True)
    return 2
