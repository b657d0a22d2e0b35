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
        (["run", "--identity", "a", "--identity", "b", "--to", "127.0.0.1:1"], "--identity is given 2 times"),
        (
            ["run", "--to", "127.0.0.1:1", "--admin", "127.0.0.1:1", "--admin", "127.0.0.1:2"],
            "--admin is given 2 times",
        ),
        (["authority", "issue", "x", "a.b", "--out", "c", "--out", "d"], "--out is given 2 times"),
        (["run", "--to", "127.0.0.1:1", "--listen", ":81", "--listen", ":81"], ":81 is given twice to listen on"),
        (["run", "--to", "127.0.0.1:1", "--listen", "127.0.0.1:81", "--admin", "127.0.0.1:81"], "is given twice"),
        (["run", "--listen", ":81", "--outbound", ":81"], ":81 is given twice to listen on"),
        (["run", "--to", "127.0.0.1:0"], "port 0 is none; give the port that is listened on"),
        (["run", "--to", "http://127.0.0.1:80"], "is a URL: write host:port alone"),
        (["run", "--app", "0"], "Invalid value for '--app': ':0' can't be reached"),
        (["run", "--app", "nonsense"], "Invalid value for '--app': 'nonsense' has no port"),
        (["run", "--to", "127.0.0.1:1", "--tap", ":4190"], "--tap belongs to --tap-identity"),
        (["run", "--to", "127.0.0.1:1", "--detect-timeout", "0s"], "'0s' is no time: give more than 0"),
        (["demo", "--for", "0"], "is no time: give more than 0"),
        (["authority", "init", "x", "--trust-domain", ""], "'' is no trust domain, it is empty"),
        (["authority", "init", "x", "--lifetime", "4000000d"], "give 1 s to 365000 d"),
        (["authority", "show", "/nowhere"], "name a directory that 'linkerd-proxy authority init' has made"),
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


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--to", "127.0.0.1:1", "--peer-identity", "API"], "--peer-identity 'API' is no identity: it has upper-case"),
        (["--outbound", "127.0.0.1:0", "--peer", "10.0.0.1=y z"], "'y z' of --peer 10.0.0.1 is no identity"),
        (["--outbound", "127.0.0.1:0", "--peer", "10.0.0.1=a.b@0"], "'10.0.0.1=a.b@0' is no peer"),
        (["--outbound", "127.0.0.1:0", "--peer", "10.0.0.1=a.b@99999"], "'10.0.0.1=a.b@99999' is no peer"),
        (["--outbound", "127.0.0.1:0", "--peer", "x=a.b", "--peer", "x=c.d"], "--peer x is given twice"),
        (["--outbound", "127.0.0.1:0", "--gateway-suffixes", "a b"], "--gateway-suffixes: 'a b' is no domain"),
    ],
)
def test_what_nobody_can_prove_or_reach_is_told_by_the_option_that_said_it(arguments, told, tmp_path, capsys):
    assert main(["authority", "init", f"{tmp_path}/ca"]) == 0
    assert main(["authority", "issue", f"{tmp_path}/ca", "web.mesh.local", "--out", f"{tmp_path}/web"]) == 0
    capsys.readouterr()
    assert main(["run", "--identity", f"{tmp_path}/web", "--listen", "127.0.0.1:0", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_an_error_comes_without_the_warning_of_plaintext_before_it(capfd):
    assert main(["run", "--require-identity", "--outbound", "127.0.0.1:0"]) == 2
    assert "WARNING" not in capfd.readouterr().err


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
