"""``linkerd-proxy tap``: live requests of a running proxy, a line each."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import click
import trio

from linkerd_proxy.address import parse_target
from linkerd_proxy.cli.asking import ask_admin
from linkerd_proxy.cli.options import ADDRESS, Command

__all__ = ["tap"]


@click.command(cls=Command, short_help="Watch live requests of a running proxy.")
@click.option("--admin", type=ADDRESS, default="127.0.0.1:4191", show_default=True, help="The proxy's admin endpoint.")
@click.option("--method", default="", help="Only requests with this method.")
@click.option("--path", default="", help="Only requests whose path begins so.")
@click.option("--authority", default="", help="Only requests to this host; *.example.com for all below.")
@click.option("--source", default="", help="Only from this address or network, as in 10.0.0.0/8.")
@click.option("--port", type=click.IntRange(1, 65535), help="Only connections to this port.")
@click.option("--client-id", default="", help="Only from this identity; *.mesh.local for all that end so.")
@click.option("--label", multiple=True, metavar="NAME=VALUE", help="Only from Tap layers with this label.")
@click.option("--limit", type=click.IntRange(min=1), help="End after so many requests or connections.")
@click.option("--sample", type=click.FloatRange(0, 1, min_open=True), help="Only this share, chosen by chance.")
@click.option("--headers", is_flag=True, help="Show header fields too; credentials are redacted.")
@click.option("--json", "as_json", is_flag=True, help="Print the events as lines of JSON.")
def tap(admin: str, as_json: bool, **wishes: object) -> None:
    """Print each request that passes a Tap layer of the proxy, as it begins, is answered and ends, until Control-C.

    \b
    linkerd-proxy tap --path /api --limit 100
    linkerd-proxy tap --client-id '*.mesh.local' --json
    """  # noqa: D301  # click's own way to say "leave these lines as they are"
    query = [(name, str(one)) for name, value in wishes.items() for one in _values(value)]

    def show(line: str) -> None:
        if line:
            click.echo(line if as_json else _shown(json.loads(line)))

    trio.run(ask_admin, parse_target(admin), f"/tap?{urlencode(query)}", "application/x-ndjson", show)


def _values(value: object) -> list[object]:
    if isinstance(value, tuple):
        return list(value)
    return [] if value in (None, "", False) else [value]


def _shown(event: dict[str, object]) -> str:
    """Return an event as one line, in the manner of Linkerd's tap."""
    kind = event.pop("event")
    if kind == "dropped":
        return f"({event['count']} events dropped: this terminal is too slow, use --sample)"
    number = event.pop("id")
    headers = [*_pairs(event.pop("headers", [])), *_pairs(event.pop("trailers", []))]
    if "after" in event:
        event["after"] = f"{float(str(event['after'])) * 1000:.1f}ms"
    fields = " ".join(f"{name}={_quoted(value)}" for name, value in event.items() if value != "")
    lines = [f"{kind:<8} id={number} {fields}"]
    lines += [f"         {name}: {_quoted(value)}" for name, value in headers]
    return "\n".join(lines)


def _pairs(value: object) -> list[tuple[str, str]]:
    return [(name, text) for name, text in value] if isinstance(value, list) else []


def _quoted(value: object) -> str:
    # A peer chose it: it must not be able to write on the terminal what it likes.
    text = str(value).encode("unicode_escape").decode("ascii")
    return json.dumps(text) if " " in text else text
