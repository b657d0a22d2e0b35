"""The README does what it says, and stays short."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from linkerd_proxy import Stack

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LINES = README.splitlines()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def first_line_with(text: str) -> int:
    return next(number for number, line in enumerate(LINES, 1) if text in line)


def test_install_program_and_output_stand_on_the_first_screen():
    assert len(LINES) <= 130
    assert first_line_with("pip install") <= 12
    assert first_line_with("```python") <= 25
    assert first_line_with("```text") <= 40
    assert README.count("badge") <= 2


def test_the_two_commands_are_the_promised_ones():
    commands = blocks("sh")[0].splitlines()
    assert commands == [
        "python3 -m venv .venv && .venv/bin/pip install -e '.[all]' && .venv/bin/linkerd-proxy demo",
        "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest",
    ]


def test_the_program_prints_what_the_readme_shows():
    (program,) = blocks("python")
    (shown,) = blocks("text")
    assert len(program.splitlines()) <= 20
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(program, "README.md", "exec"), names)
    proxy = names["proxy"]
    assert isinstance(proxy, Stack)
    assert str(proxy) == shown.rstrip("\n")


async def test_the_program_serves(monkeypatch, capsys, nursery):
    program = blocks("python")[0].replace("127.0.0.1:8080", "127.0.0.1:0")
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(program, "README.md", "exec"), names)
    bound = trio.Event()
    open_listeners = names["open_listeners"]

    async def opened(*addresses):
        listeners = await open_listeners(*addresses)
        names["port"] = listeners[0].address.port
        bound.set()
        return listeners

    names["open_listeners"] = opened
    nursery.start_soon(names["main"])
    await bound.wait()
    async with await trio.open_tcp_stream("127.0.0.1", names["port"]) as client:
        await client.send_all(b"GET /api HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = b"".join([chunk async for chunk in client])
    assert answer.startswith(b"HTTP/1.1 502 ")  # nothing listens there in a test, and the proxy says so
    assert b"l5d-proxy-error: UF" in answer
    assert capsys.readouterr().out.rstrip("\n") == blocks("text")[0].rstrip("\n")
    nursery.cancel_scope.cancel()


def test_ci_runs_the_test_command_as_it_stands():
    run = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r"grep -E '([^']+)' README.md", run)
    assert pattern is not None
    assert [line for line in LINES if re.search(pattern[1], line)] == [blocks("sh")[0].splitlines()[1]]
    assert "${commands[0]}" in run


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_lead_somewhere(file):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / file).read_text()):
        if not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def options_of(command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "linkerd_proxy", command, "--help"], capture_output=True, text=True, check=True
    ).stdout


def test_the_commands_of_the_readme_are_understood():
    lines = [line for block in blocks("sh")[1:] for line in block.splitlines() if " run " in line]
    assert len(lines) == 3
    shown = options_of("run")
    for line in lines:
        program, command, *arguments = line.split()
        assert (program, command) == ("linkerd-proxy", "run")
        assert [argument for argument in arguments if argument.startswith("--") and argument not in shown] == []


def test_the_readmes_authority_issues_the_readmes_identities(tmp_path):
    lines = [line for line in blocks("sh")[2].splitlines() if " authority " in line]
    for line in lines:
        for command in line.split(" && "):
            program, *arguments = command.split()
            assert program == "linkerd-proxy"
            subprocess.run([sys.executable, "-m", "linkerd_proxy", *arguments], cwd=tmp_path, check=True)
    for name in ("web", "api"):
        assert {file.name for file in (tmp_path / name).iterdir()} == {"ca.pem", "cert.pem", "key.pem"}
