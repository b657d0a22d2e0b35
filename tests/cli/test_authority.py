"""``linkerd-proxy authority``: what it writes, what it shows, what it refuses."""

import json
import os
import stat

import pytest
import trio

from linkerd_proxy import Client, Connect
from linkerd_proxy.cli.main import main
from linkerd_proxy.tls.certify import Certify
from linkerd_proxy.tls.store import read_certificates, read_store
from linkerd_proxy.tls.tokens import Tokens
from tests.patience import PATIENCE


@pytest.fixture
def run(capsys):
    def run(*arguments, status=0):
        assert main(["authority", *map(str, arguments)]) == status
        out, err = capsys.readouterr()
        assert err.count("\n") == (1 if status else 0)
        return err if status else out

    return run


def test_init_issue_show_token(tmp_path, run):
    mesh, web = tmp_path / "mesh", tmp_path / "web"
    assert run("init", mesh, "--trust-domain", "shop.example").startswith(
        f"{mesh}: the authority of shop.example until "
    )
    assert run("issue", mesh, "web.shop.example", "--out", web).startswith(f"{web}: web.shop.example until ")
    (leaf,) = read_certificates(web / "cert.pem")
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() == 86400 + 60
    assert stat.S_IMODE((web / "key.pem").stat().st_mode) == 0o600
    assert read_certificates(web / "ca.pem") == read_store(mesh).anchors
    token = run("token", mesh, "web.shop.example").strip()
    shown = run("show", mesh)
    assert shown.startswith("trust domain: shop.example\nauthority:    root, until 20")
    assert shown.count("SHA256:") == 2
    assert "token:        for web.shop.example until 20" in shown
    assert token not in shown
    Tokens(mesh / "tokens").use(token, "web.shop.example")
    assert "token:" not in run("show", mesh)


def test_every_certificate_is_written_down(tmp_path, run):
    run("init", tmp_path / "mesh")
    for name in ("web.mesh.local", "spiffe://mesh.local/db"):
        run("issue", tmp_path / "mesh", name, "--out", tmp_path / name.rpartition("/")[2], "--lifetime", "2h")
    entries = [json.loads(line) for line in (tmp_path / "mesh" / "issued.log").read_text().splitlines()]
    assert [entry["name"] for entry in entries] == ["web.mesh.local", "spiffe://mesh.local/db"]
    (leaf,) = read_certificates(tmp_path / "db" / "cert.pem")
    assert entries[1] | {"time": ""} == {
        "time": "",
        "name": "spiffe://mesh.local/db",
        "serial": f"{leaf.serial_number:x}",
        "until": f"{leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "how": "command",
    }


def test_an_authority_below_a_root(tmp_path, run):
    run("init", tmp_path / "root")
    run("init", tmp_path / "west", "--under", tmp_path / "root", "--lifetime", "30d")
    assert "authority:    below a root, until " in run("show", tmp_path / "west")
    run("issue", tmp_path / "west", "web.mesh.local", "--out", tmp_path / "web")
    assert len(read_certificates(tmp_path / "web" / "cert.pem")) == 2
    assert read_certificates(tmp_path / "web" / "ca.pem") == read_store(tmp_path / "root").anchors


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["init", "{mesh}"], "of an authority already: give another directory"),
        (["init", "{tmp}/x", "--trust-domain", "Mesh"], "'Mesh' is no trust domain, it has upper-case letters: write"),
        (["init", "{tmp}/x", "--lifetime", "0"], "a lifetime of 0 s is none"),
        (["init", "{tmp}/x", "--under", "{tmp}"], "holds no authority: make one with"),
        (["init", "{tmp}/x", "--under", "{mesh}", "--trust-domain", "a.b"], "leave --trust-domain out"),
        (["init", "/proc/x"], "cannot make /proc/x"),
        (["issue", "{tmp}/none", "web.mesh.local", "--out", "{tmp}/x"], "cannot read"),
        (["issue", "{mesh}", "web.other", "--out", "{tmp}/x"], "it is not in the trust domain mesh.local: give a name"),
        (["issue", "{mesh}", "web.mesh.local"], "Missing option '--out'"),
        (["issue", "{mesh}", "web.mesh.local", "--out", "{mesh}/ca.pem"], "is no directory: give another path"),
        (["serve", "{tmp}"], "holds no authority"),
        (["serve", "{mesh}", "--name", "web.other"], "it is not in the trust domain mesh.local"),
        (["serve", "{mesh}", "--allow", "1000"], "--allow 1000: '' can't be issued, it is empty"),
        (["serve", "{mesh}", "--allow-file", "{tmp}/x"], "cannot read"),
        (["serve", "{mesh}", "--lifetime", "0"], "a lifetime of 0 s is none"),
        (["serve", "{mesh}", "--rate", "0"], "0.0 is not in the range"),
        (["serve", "{mesh}", "--listen", "nonsense"], "'nonsense' has no port"),
        (["serve", "{mesh}", "--listen", "unix:{tmp}/no/s"], "create the directory first"),
        (["show", "{tmp}"], "holds no authority"),
        (["token", "{mesh}", "*.mesh.local"], "a wildcard names nobody"),
        (["token", "{mesh}", "web.mesh.local", "--lifetime", "1000d"], "give 1 s to 365 d"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, run, arguments, told):
    mesh = tmp_path / "mesh"
    run("init", mesh)
    assert told in run(*[one.format(mesh=mesh, tmp=tmp_path) for one in arguments], status=2)
    assert not (tmp_path / "x").exists()
    assert {path.name for path in mesh.iterdir()} - {"issued.log"} == {"ca.pem", "issuer.pem", "issuer.key"}


def test_alone_it_shows_its_commands(run):
    shown = run()
    for name in ("init", "issue", "show", "token", "serve"):
        assert f"\n  {name} " in shown


async def test_serve_until_sigterm(tmp_path, command, fetch, series):
    mesh = tmp_path / "mesh"
    assert main(["authority", "init", str(mesh)]) == 0
    (tmp_path / "users").write_text("")
    listen = ["--listen", "127.0.0.1:0", "--listen", f"unix:{tmp_path}/s", "--admin", "127.0.0.1:0"]
    async with command("authority", "serve", str(mesh), *listen, "--allow-file", str(tmp_path / "users")) as server:
        admin = await server.address("admin")
        assert server.output.startswith("authority.mesh.local, <Authority of mesh.local until ")
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o666
        assert await fetch(admin, "/ready") == (200, b"ready\n")
        (tmp_path / "users").write_text(f"{os.getuid()} web.mesh.local\n")
        identity = Certify("web.mesh.local", Client() | Connect(f"unix:{tmp_path}/s"), str(mesh / "ca.pem"))
        with trio.fail_after(PATIENCE):
            async with identity.open() as live:
                made = live.credentials or await live.wait_changed()
        made.chain[0].verify_directly_issued_by(read_store(mesh).certificate)
        _, text = await fetch(admin, "/metrics")
        assert series(text.decode(), "authority_issued_total") == {'how="uid"': 1}
        server.signal()
        assert await server.ended() == 0
        own, issued = server.errors.splitlines()
        assert own.startswith("INFO authority.mesh.local has a certificate until ")
        assert issued.startswith("INFO issued web.mesh.local until ")
    assert not (tmp_path / "s").exists()
