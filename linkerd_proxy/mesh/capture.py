"""Put redirect rules in force and take them away, with the system's own nft or iptables."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from typing import Literal, TypeAlias

import trio

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.redirect import IPTABLES_CHAINS, Redirect, Version

__all__ = ["PROGRAMS", "Tool", "apply_redirect", "find_tool", "remove_redirect"]

Tool: TypeAlias = Literal["nft", "iptables"]

PROGRAMS: dict[Version, str] = {4: "iptables", 6: "ip6tables"}
"""By the version of the Internet protocol."""
_WAIT = ("-w", "10")  # seconds for the lock that another iptables may hold


def find_tool() -> Tool | None:
    """Return the tool that is installed here, nft before iptables, or None."""
    tools: tuple[Tool, ...] = ("nft", "iptables")
    return next((tool for tool in tools if shutil.which(tool)), None)


async def apply_redirect(redirect: Redirect, tool: Tool) -> None:
    """Capture traffic as ``redirect`` says, in the place of whatever was captured before.

    With nft it is one step; with iptables one step for each version of the Internet protocol.

    Raises:
        InvalidConfiguration: in the tool's own words, if it is missing or refuses.
    """
    if tool == "nft":
        await _run(["nft", "-f", "-"], redirect.nft())
        return
    for version, program in PROGRAMS.items():
        if version in redirect.versions:
            text = redirect.iptables(version, installed=await _installed(program))
            await _run([f"{program}-restore", "--noflush", *_WAIT], text)
        elif shutil.which(program):
            await _remove(redirect, program)


async def remove_redirect(redirect: Redirect, tool: Tool) -> None:
    """Take away everything that :func:`apply_redirect` made; if there is nothing, do nothing.

    Raises:
        InvalidConfiguration: in the tool's own words, if it is missing or refuses.
    """
    if tool == "nft":
        await _run(["nft", "-f", "-"], redirect.nft_removal())
        return
    for program in PROGRAMS.values():
        if program == "iptables" or shutil.which(program):
            await _remove(redirect, program)


async def _remove(redirect: Redirect, program: str) -> None:
    rules = await _rules(program)
    if any(f"-N {ours}" in rules for ours in IPTABLES_CHAINS.values()):
        text = redirect.iptables_removal(await _installed(program))
        await _run([f"{program}-restore", "--noflush", *_WAIT], text)


async def _installed(program: str) -> list[str]:
    rules = await _rules(program)
    return [chain for chain, ours in IPTABLES_CHAINS.items() if f"-A {chain} -j {ours}" in rules]


async def _rules(program: str) -> list[str]:
    return (await _run([program, *_WAIT, "-t", "nat", "-S"])).splitlines()


async def _run(command: Sequence[str], text: str = "") -> str:
    """Run a program with this input, and return what it printed."""
    try:
        done = await trio.run_process(
            command, stdin=text.encode(), capture_stdout=True, capture_stderr=True, check=False
        )
    except FileNotFoundError:
        problem = f"there is no program {command[0]}: install it, or give --tool for the other one"
        raise InvalidConfiguration(problem) from None
    if done.returncode:
        raise InvalidConfiguration(f"{command[0]} refused the rules: {_complaint(done)}; run it as root")
    return done.stdout.decode()


def _complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[0] if lines else f"it ended with status {done.returncode}"
