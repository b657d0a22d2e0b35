"""``linkerd-proxy authority``: a certificate authority of one's own, in a directory."""

from __future__ import annotations

from pathlib import Path

import click

from linkerd_proxy.cli.authority_serve import serve_authority
from linkerd_proxy.cli.options import DURATION, Command

__all__ = ["authority"]

_DIRECTORY = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))


@click.group(invoke_without_command=True, short_help="Be a certificate authority: init, issue, show, token, serve.")
@click.pass_context
def authority(ctx: click.Context) -> None:
    """Be the certificate authority of a mesh: a root in a directory, which issues identities to workloads.

    \b
    linkerd-proxy authority init /var/lib/mesh --trust-domain mesh.local
    linkerd-proxy authority issue /var/lib/mesh web.mesh.local --out /etc/mesh/web
    """  # noqa: D301  # click's own way to say "leave these lines as they are"
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@authority.command(cls=Command, short_help="Make an authority in a directory.")
@_DIRECTORY
@click.option("--trust-domain", help="What all its names end with.  [default: mesh.local]")
@click.option("--lifetime", type=DURATION, help="How long it is valid.  [default: 3650d; 365d with --under]")
@click.option(
    "--under",
    metavar="ROOT",
    type=click.Path(path_type=Path),
    help="Sign it with the authority in this directory, whose key can then be locked away.",
)
def init(directory: Path, trust_domain: str | None, lifetime: float | None, under: Path | None) -> None:
    """Make a certificate authority in DIR: its key (issuer.key, mode 0600), its certificate (issuer.pem), and the trust
    anchors that every proxy needs (ca.pem). What is there already is never overwritten.
    """  # noqa: D205
    from linkerd_proxy.tls.authority import ISSUER_LIFETIME, ROOT_LIFETIME, Authority
    from linkerd_proxy.tls.store import create_store, read_store

    if under is None:
        domain = "mesh.local" if trust_domain is None else trust_domain
        made = Authority.create(domain, lifetime=ROOT_LIFETIME if lifetime is None else lifetime)
    else:
        root = read_store(under)
        if trust_domain not in (None, root.trust_domain):
            raise click.UsageError(f"{under} is of the trust domain {root.trust_domain}: leave --trust-domain out")
        made = root.subordinate(lifetime=ISSUER_LIFETIME if lifetime is None else lifetime)
    create_store(directory, made)
    click.echo(f"{directory}: the authority of {made.trust_domain} until {made.not_after:%Y-%m-%d}")


@authority.command(cls=Command, short_help="Issue an identity as files.")
@_DIRECTORY
@click.argument("name")
@click.option(
    "--out",
    required=True,
    metavar="IDDIR",
    type=click.Path(path_type=Path),
    help="Where to write ca.pem, cert.pem and key.pem (mode 0600).",
)
@click.option("--lifetime", type=DURATION, default="1d", show_default=True, help="How long the certificate is valid.")
def issue(directory: Path, name: str, out: Path, lifetime: float) -> None:
    """Issue the identity NAME with the authority in DIR, and write it to IDDIR, in place of an older one of that name.

    NAME ends in the trust domain (web.mesh.local), or is a SPIFFE ID of it (spiffe://mesh.local/web).
    """
    from linkerd_proxy.tls.audit import record_issue
    from linkerd_proxy.tls.store import read_store, write_identity

    signer = read_store(directory)
    made = signer.issue(name, lifetime=lifetime)
    record_issue(directory, name, made.chain[0], how="command", now=signer.now())
    write_identity(out, made)
    click.echo(f"{out}: {name} until {made.not_after:%Y-%m-%dT%H:%M:%SZ}")


@authority.command(cls=Command, short_help="Show an authority.")
@_DIRECTORY
def show(directory: Path) -> None:
    """Show the authority in DIR, its trust anchors, and the tokens that are not used yet. It shows no secret."""
    from linkerd_proxy.tls.authority import fingerprint
    from linkerd_proxy.tls.store import read_store
    from linkerd_proxy.tls.tokens import Tokens

    found = read_store(directory)
    lines = [("trust domain", found.trust_domain)]
    kind = "root" if found.certificate in found.anchors else "below a root"
    lines.append(("authority", f"{kind}, until {found.not_after:%Y-%m-%dT%H:%M:%SZ}, {fingerprint(found.certificate)}"))
    lines += [
        ("trust anchor", f"until {one.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}, {fingerprint(one)}")
        for one in found.anchors
    ]
    tokens = Tokens(directory / "tokens").outstanding()
    lines += [("token", f"for {name} until {until:%Y-%m-%dT%H:%M:%SZ}") for name, until in tokens]
    click.echo("\n".join(f"{what + ':':<14}{text}" for what, text in lines))


@authority.command(cls=Command, short_help="Make a one-time token for a workload's first certificate.")
@_DIRECTORY
@click.argument("name")
@click.option("--lifetime", type=DURATION, default="1h", show_default=True, help="How long it can be used.")
def token(directory: Path, name: str, lifetime: float) -> None:
    """Print a token that gets NAME one certificate from "authority serve", once. Only its hash is kept in DIR."""
    from linkerd_proxy.tls.store import read_store
    from linkerd_proxy.tls.tokens import Tokens

    checked = read_store(directory).check_name(name)
    click.echo(Tokens(directory / "tokens").make(checked, lifetime=lifetime))


authority.add_command(serve_authority)
