"""Run in a network namespace of its own: a host whose traffic is redirected, and another host beside it.

``python redirected.py nft|iptables`` prints a line for each connection: who took it, and where it was going.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from linkerd_proxy import open_listeners

HERE, THERE = {4: "192.0.2.1", 6: "2001:db8::1"}, {4: "192.0.2.2", 6: "2001:db8::2"}
PROXY = 2102
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def tell(*words: object) -> None:
    sys.stdout.write(f"{' '.join(map(str, words))}\n")


def system(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def entered(namespace: int) -> None:
    assert libc.setns(namespace, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


class Hosts:
    """This namespace and another one, joined by a cable."""

    def __init__(self) -> None:
        self.here = os.open("/proc/self/ns/net", os.O_RDONLY)
        assert libc.unshare(CLONE_NEWNET) == 0
        self.there = os.open("/proc/self/ns/net", os.O_RDONLY)
        entered(self.here)
        other = f"/proc/{os.getpid()}/fd/{self.there}"
        system("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", other)
        self._configure(HERE)
        with self.elsewhere():
            self._configure(THERE)

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Be on the other host: sockets made in the block stay there."""
        entered(self.there)
        try:
            yield
        finally:
            entered(self.here)

    def _configure(self, addresses: dict[int, str]) -> None:
        system("ip", "link", "set", "lo", "up")
        system("ip", "link", "set", "cable", "up")
        system("ip", "address", "add", f"{addresses[4]}/24", "dev", "cable")
        system("ip", "address", "add", f"{addresses[6]}/64", "dev", "cable", "nodad")


def listen(port: int) -> socket.socket:
    return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)


def connect(host: str, port: int, *, uid: int = 0) -> socket.socket:
    os.seteuid(uid)  # the owner of a socket is who made it
    try:
        return socket.create_connection((host, port), timeout=120)
    finally:
        os.seteuid(0)


def rules(tool: str) -> str:
    if tool == "nft":
        return system("nft", "list", "ruleset")
    return "".join(system(program, "-t", "nat", "-S") for program in ("iptables", "ip6tables"))


async def main(tool: str) -> None:
    hosts = Hosts()
    command = (sys.executable, "-m", "linkerd_proxy", "redirect", "--tool", tool)
    before = rules(tool)
    options = ("--apply", "--skip-outbound-ports", "4567,9000-9010,9005", "--skip-subnets", "198.51.100.0/24")
    system(*command, *options)
    once = rules(tool)
    system(*command, *options)
    tell("applied twice:", "the same" if rules(tool) == once and once != before else "not the same")
    application = listen(7777)
    skipped = listen(4191)
    with hosts.elsewhere():
        remote, remote_skipped = listen(7777), listen(9007)
    inbound = (await open_listeners(":4143", original_dst=True))[0]
    outbound = {
        4: (await open_listeners("127.0.0.1:4140", original_dst=True))[0],
        6: (await open_listeners("[::1]:4140", original_dst=True))[0],
    }
    for version in (4, 6):
        with hosts.elsewhere():
            client = connect(HERE[version], 7777)
        tell(version, "from outside: inbound proxy,", (await inbound.accept()).original_dst)
        client.close()
        with hosts.elsewhere():
            client = connect(HERE[version], 4143)
        tell(version, "from outside to the proxy: inbound proxy,", (await inbound.accept()).original_dst)
        client.close()
        with hosts.elsewhere():
            client = connect(HERE[version], 4191)
        skipped.accept()[0].close()
        tell(version, "from outside to a skipped port: not captured")
        client.close()
        connect(THERE[version], 7777).close()
        tell(version, "from a program: outbound proxy,", (await outbound[version].accept()).original_dst)
        connect(THERE[version], 9007).close()
        remote_skipped.accept()[0].close()
        tell(version, "from a program to a skipped port: not captured")
        connect(THERE[version], 7777, uid=PROXY).close()
        remote.accept()[0].close()
        tell(version, "from the proxy: not captured")
        connect(HERE[version], 7777).close()
        application.accept()[0].close()
        tell(version, "from a program to this host: not captured")
    system(*command, "--remove")
    tell("removed:", "no trace" if rules(tool) == before else rules(tool))
    connect(THERE[4], 7777).close()
    remote.accept()[0].close()
    system(*command, "--remove")
    tell("removed twice:", "no trace" if rules(tool) == before else rules(tool))


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
