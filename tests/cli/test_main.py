import subprocess
import sys

import pytest

from linkerd_proxy import __version__
from linkerd_proxy.cli.main import cli, main
from linkerd_proxy.errors import CODES


def test_without_arguments_it_shows_short_help_in_groups(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"linkerd-proxy {__version__}\n")
    for group, command in (("Try:", "demo"), ("Run:", "run"), ("Look:", "explain")):
        assert out.index(group) < out.index(f"\n  {command}")
    assert len(out.splitlines()) < 30
    assert max(map(len, out.splitlines())) <= 80


def test_every_command_is_in_a_group():
    out = subprocess.run(
        [sys.executable, "-m", "linkerd_proxy", "-h"], capture_output=True, text=True, check=True
    ).stdout
    for name in cli.commands:
        assert f"\n  {name} " in out


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(option, capsys):
    assert main([option]) == 0
    assert capsys.readouterr().out == f"linkerd-proxy {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rnu"], "there is no command rnu: did you mean run?"),
        (["zzzzzz"], f"there is no command zzzzzz: give one of {', '.join(cli.commands)}"),
        (["run", "--opaque"], "--opaque belongs to --to"),
        (["run", "--peer-identity", "x.mesh.local"], "--peer-identity belongs to --to"),
        (["run", "--to", "127.0.0.1:1", "--app", "80"], "--app is for a sidecar, which has no --to"),
        (["run", "--to", "127.0.0.1:1", "--peer", "10.0.0.1=x"], "--peer is for a sidecar, which has no --to"),
        (["run", "--to", "127.0.0.1:1", "--require-identity"], "--require-identity needs an identity of the proxy's"),
        (["run", "--to", "127.0.0.1:1", "--peer-identity", "x"], "--peer-identity needs an identity of the proxy's"),
        (["run", "--to", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--identity", "/nowhere"], "/nowhere/"),
        (["run", "--require-identity", "--outbound", "127.0.0.1:0"], "--require-identity needs an identity"),
        (["run", "--peer", "10.0.0.1=x", "--outbound", "127.0.0.1:0"], "--peer needs an identity of the proxy's own"),
        (["run", "--opaque-ports", "smtp", "--outbound", "127.0.0.1:0"], "'smtp' is no port"),
        (["run", "x:y", "--identity", "web"], "--identity is not for a stack of your own"),
        (["run", "--bogus"], "--bogus"),
        (["run", "x:y", "--to", "127.0.0.1:1"], "either --to HOST:PORT or a stack"),
        (["run", "x:y", "--opaque"], " is not for a stack of your own"),
        (["run", "x:y", "--codec", "h11"], " is not for a stack of your own"),
        (["run", "--to", "nonsense"], "'nonsense' has no port"),
        (["run", "--to", "127.0.0.1:1", "--listen", "a b:1"], "'a b:1' names no host"),
        (["run", "--to", "127.0.0.1:1", "--codec", "llhttp"], "'llhttp' is not one of"),
        (["run", "--to", "127.0.0.1:1", "--workers", "0"], "0 is not in the range"),
        (["run", "--to", "127.0.0.1:1", "--workers", "two"], "'two' is not a valid integer"),
        (["run", "--to", "127.0.0.1:1", "--grace", "5"], "give a number with a unit"),
        (["run", "--to", "127.0.0.1:1", "--log", "loud"], "names no log level"),
        (["run", "no_such_file.py:proxy"], "there is no file no_such_file.py"),
        (["run", "no.such.module:proxy"], "there is no module 'no.such.module'"),
        (["demo", "--for", "ever"], "'ever' is no duration"),
        (["authority", "isue"], "Did you mean 'issue'?"),
        (["authority", "init", "x", "--lifetime", "5"], "give a number with a unit"),
        (["explain", "XYZZY"], "there is no failure code XYZZY"),
        (["explain", "ufx"], "did you mean UF?"),
    ],
)
def test_an_error_is_one_clear_line_and_status_2(arguments, told, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("linkerd-proxy: ")
    assert told in err
    assert err.count("\n") == 1


def test_a_missing_library_is_told_before_anything_starts(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "httptools", None)
    monkeypatch.delitem(sys.modules, "linkerd_proxy.http.h1.httptools_codec", raising=False)
    assert main(["run", "--to", "127.0.0.1:1", "--codec", "httptools"]) == 2
    assert "pip install 'linkerd-proxy[fast]'" in capsys.readouterr().err


def test_what_the_system_refuses_is_one_line_too(monkeypatch, capsys, tmp_path):
    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied", f"{tmp_path}/issuer.key")

    monkeypatch.setattr("linkerd_proxy.tls.store.read_store", refuse)
    assert main(["authority", "show", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"linkerd-proxy: {tmp_path}/issuer.key: Permission denied\n"


def test_explain_knows_every_code(capsys):
    for code, error in CODES.items():
        assert main(["explain", code.lower()]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"{code}: ")
        assert error.__name__ in out
        assert "``" not in out
    assert main(["explain"]) == 0
    listed = capsys.readouterr().out
    assert "``" not in listed
    for code in [*CODES, "CANCEL", "IO", "BUG"]:
        assert f"\n{code} " in f"\n{listed}"
    assert main(["explain", "CANCEL"]) == 0
    assert "client went away" in capsys.readouterr().out
