"""Traffic that the kernel redirects to the proxy: the original destination is found, for IPv4 and for IPv6.

Runs in a network namespace of its own, so it needs root, unshare, ip and iptables; without them it is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

CLIENT_AND_PROXY = """
import sys
import trio
from linkerd_proxy import open_listeners

async def main():
    host = sys.argv[1]
    (listener,) = await open_listeners("[::]:4140" if ":" in host else "0.0.0.0:4140", original_dst=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.open_tcp_stream, host, 7777)
        connection = await listener.accept()
        print("redirected from", connection.original_dst)
        nursery.start_soon(trio.open_tcp_stream, "::1" if ":" in host else "127.0.0.1", 4140)
        print("direct", (await listener.accept()).original_dst)

trio.run(main)
"""

RULE = "-t nat -A OUTPUT -p tcp --dport 7777 -j REDIRECT --to-ports 4140"


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "--net", "sh", "-ec", f"ip link set lo up\n{script}"],
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,  # it starts many programs
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )


@pytest.mark.parametrize(
    ("tool", "family", "host"), [("iptables", "-4", "192.0.2.7"), ("ip6tables", "-6", "2001:db8::7")]
)
def test_the_original_destination_of_redirected_traffic_is_found(tool, family, host):
    missing = [name for name in ("unshare", "ip", tool) if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt install util-linux iproute2 iptables")
    address = (
        f"ip {family} address add {host}{'/128' if ':' in host else '/32'} dev lo{' nodad' if ':' in host else ''}"
    )
    setup = f"{address}\n{tool} {RULE}\n"
    if os.geteuid() != 0 or (tried := in_namespace(setup)).returncode:
        pytest.skip(f"needs root and nat rules: {tried.stderr.strip() if os.geteuid() == 0 else 'run as root'}")
    done = in_namespace(f"{setup}exec '{sys.executable}' -c '{CLIENT_AND_PROXY}' {host}")
    assert done.returncode == 0, done.stderr
    shown = f"[{host}]" if ":" in host else host
    assert done.stdout.splitlines() == [f"redirected from {shown}:7777", "direct None"]


@pytest.mark.parametrize("tool", ["nft", "iptables"])
def test_applied_rules_capture_all_but_the_proxys_own_and_removed_they_leave_no_trace(tool):
    programs = ["unshare", "ip", *(["nft"] if tool == "nft" else ["iptables-restore", "ip6tables-restore"])]
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt install util-linux iproute2 nftables iptables")
    possible = {
        "nft": "nft add table inet t\nnft 'add chain inet t c { type nat hook output priority -100; }'",
        "iptables": "".join(f"{program} {RULE}\n" for program in ("iptables", "ip6tables")),
    }[tool]
    possible += "\nip link add one type veth peer name other"
    if os.geteuid() != 0 or (tried := in_namespace(possible)).returncode:
        pytest.skip(f"needs root and nat rules: {tried.stderr.strip() if os.geteuid() == 0 else 'run as root'}")
    done = in_namespace(f"exec '{sys.executable}' '{Path(__file__).with_name('redirected.py')}' {tool}")
    assert done.returncode == 0, done.stdout + done.stderr
    told = []
    for version, here, there in ((4, "192.0.2.1", "192.0.2.2"), (6, "[2001:db8::1]", "[2001:db8::2]")):
        told += [
            f"{version} from outside: inbound proxy, {here}:7777",
            f"{version} from outside to the proxy: inbound proxy, None",
            f"{version} from outside to a skipped port: not captured",
            f"{version} from a program: outbound proxy, {there}:7777",
            f"{version} from a program to a skipped port: not captured",
            f"{version} from the proxy: not captured",
            f"{version} from a program to this host: not captured",
        ]
    assert done.stdout.splitlines() == [
        "applied twice: the same", *told, "removed: no trace", "removed twice: no trace"
    ]  # fmt: skip


def test_two_hosts_whose_traffic_is_captured_are_a_mesh_that_no_program_knows_of():
    missing = [name for name in ("unshare", "ip", "nft") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt install util-linux iproute2 nftables")
    possible = "nft add table inet t\nnft 'add chain inet t c { type nat hook output priority -100; }'\n"
    if os.geteuid() != 0 or (tried := in_namespace(f"{possible}ip link add one type veth peer name other")).returncode:
        pytest.skip(f"needs root and nat rules: {tried.stderr.strip() if os.geteuid() == 0 else 'run as root'}")
    done = in_namespace(f"exec '{sys.executable}' '{Path(__file__).with_name('captured.py')}'")
    assert done.returncode == 0, done.stdout + done.stderr
    told = []
    for version in (4, 6):
        told.append(f"{version} http: what nobody else shall read l5d-client-id: web.mesh.local")
        told.append(f"{version} server first: what nobody else shall read")
    assert done.stdout.splitlines() == [*told, "packets: some in the clear: 0", "ended: 0", "ended: 0"]
    assert "BUG" not in done.stderr
