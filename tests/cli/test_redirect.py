import sys

import pytest

from linkerd_proxy.cli.main import main
from linkerd_proxy.mesh.redirect import Redirect


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Make the only programs there are fakes, which tell what they were given."""

    def install(**programs):
        for name, script in programs.items():
            file = tmp_path / name.replace("_", "-")
            file.write_text(f"#!{sys.executable}\n{script}\n")
            file.chmod(0o755)
        return tmp_path

    monkeypatch.setenv("PATH", str(tmp_path))
    return install


TELLS = "import sys; open(__file__ + '.told', 'a').write(' '.join(sys.argv[1:]) + '\\n' + sys.stdin.read())"
SHOWS = "import sys; print('-P OUTPUT ACCEPT')"
CAPTURES = "print('-N LINKERD_PROXY_IN', '-N LINKERD_PROXY_OUT', '-A OUTPUT -j LINKERD_PROXY_OUT', sep='\\n')"
REFUSES = "import sys; sys.exit('Operation not permitted (you must be root)')"


def test_printed_rules_are_those_that_would_be_applied(tools, capsys):
    assert main(["redirect", "--print"]) == 0
    assert capsys.readouterr().out == f"# for: nft -f -\n{Redirect().nft()}"
    assert main(["redirect", "--print", "--tool", "iptables"]) == 0
    both = [
        f"# for: {name}-restore --noflush\n{Redirect().iptables(v)}" for v, name in ((4, "iptables"), (6, "ip6tables"))
    ]
    assert capsys.readouterr().out == "".join(both)


def test_what_removes_them_can_be_printed_too(tools, capsys):
    assert main(["redirect", "--print", "--remove", "--tool", "nft"]) == 0
    assert "delete table inet linkerd_proxy" in capsys.readouterr().out
    assert main(["redirect", "--print", "--remove", "--tool", "iptables", "--no-ipv6"]) == 0
    out = capsys.readouterr().out
    assert "-X LINKERD_PROXY_IN" in out
    assert "ip6tables" not in out


def test_options_become_rules(tools, capsys):
    options = ["--inbound-port", "1", "--outbound-port", "2", "--uid", "root", "--uid", "5", "--gid", "root"]
    options += ["--skip-inbound-ports", "22, 8000-8010", "--skip-outbound-ports", "", "--skip-subnets", "10.0.0.0/8"]
    assert main(["redirect", "--print", "--no-ipv6", *options]) == 0
    expected = Redirect(1, 2, (0, 5), (0,), ("22", "8000-8010"), (), ("10.0.0.0/8",), (4,))
    assert capsys.readouterr().out == f"# for: nft -f -\n{expected.nft()}"


def test_a_group_is_enough(tools, capsys):
    assert main(["redirect", "--print", "--gid", "5"]) == 0
    assert "skuid" not in capsys.readouterr().out


def test_nft_is_taken_where_it_is_installed(tools, capsys):
    where = tools(nft=TELLS, iptables=SHOWS)
    assert main(["redirect", "--apply"]) == 0
    assert (where / "nft.told").read_text() == f"-f -\n{Redirect().nft()}"
    assert capsys.readouterr().out == ""


def test_iptables_is_told_to_replace_what_is_there(tools):
    where = tools(iptables=CAPTURES, iptables_restore=TELLS, ip6tables=SHOWS, ip6tables_restore=TELLS)
    assert main(["redirect", "--apply"]) == 0
    told = (where / "iptables-restore.told").read_text()
    assert told == f"--noflush -w 10\n{Redirect().iptables(4, installed=['OUTPUT'])}"
    assert (where / "ip6tables-restore.told").read_text() == f"--noflush -w 10\n{Redirect().iptables(6)}"


def test_without_ipv6_what_was_captured_of_it_is_released(tools):
    where = tools(iptables=SHOWS, iptables_restore=TELLS, ip6tables=CAPTURES, ip6tables_restore=TELLS)
    assert main(["redirect", "--apply", "--no-ipv6"]) == 0
    told = (where / "ip6tables-restore.told").read_text()
    assert told == f"--noflush -w 10\n{Redirect().iptables_removal(['OUTPUT'])}"


def test_removing_nothing_changes_nothing(tools):
    where = tools(iptables=SHOWS, iptables_restore=TELLS)
    assert main(["redirect", "--remove"]) == 0
    assert not (where / "iptables-restore.told").exists()


@pytest.mark.parametrize(
    ("programs", "arguments", "told"),
    [
        ({"nft": REFUSES}, ["--apply"], "nft refused the rules: Operation not permitted (you must be root); run it as"),
        ({"nft": "import sys; sys.exit(3)"}, ["--remove"], "nft refused the rules: it ended with status 3"),
        ({"iptables": SHOWS}, ["--apply"], "there is no program iptables-restore: install it"),
        ({"iptables": SHOWS}, ["--apply", "--tool", "nft"], "there is no program nft"),
        ({}, ["--apply"], "neither nft nor iptables is installed"),
        ({}, [], "say what to do"),
        ({}, ["--apply", "--remove"], "say what to do"),
        ({}, ["--apply", "--print"], "say what to do"),
        ({}, ["--print", "--uid", "nobody-of-that-name"], "there is no user 'nobody-of-that-name' here: give a number"),
        ({}, ["--print", "--gid", "-1"], "there is no group '-1' here"),
        ({}, ["--print", "--skip-inbound-ports", "ssh"], "'ssh' is no port to skip"),
        ({}, ["--print", "--skip-subnets", "10/8"], "'10/8' is no network to skip"),
        ({}, ["--print", "--inbound-port", "4140"], "both go to port 4140"),
    ],
)
def test_an_error_is_one_clear_line_and_status_2(tools, programs, arguments, told, capsys):
    tools(**programs)
    assert main(["redirect", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1
