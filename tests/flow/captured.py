"""Run in a network namespace of its own: two hosts with a sidecar each, which the kernel hands all traffic.

``python captured.py`` prints what programs here hear from those on the other host, who know nothing of proxies.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from redirected import PROXY, THERE, Hosts, connect, listen, system, tell

SECRET = b"what nobody else shall read"
COMMAND = (sys.executable, "-m", "linkerd_proxy")


def identities() -> Path:
    where = Path(tempfile.mkdtemp())
    system(*COMMAND, "authority", "init", str(where / "ca"))
    for name in ("web", "api"):
        system(*COMMAND, "authority", "issue", str(where / "ca"), f"{name}.mesh.local", "--out", str(where / name))
    return where


def sidecar(*options: str) -> subprocess.Popen[str]:
    """Capture traffic, and run a sidecar in the group that is not captured."""
    system(*COMMAND, "redirect", "--apply", "--gid", str(PROXY))
    process = subprocess.Popen([*COMMAND, "run", *options], stdout=subprocess.PIPE, text=True, group=PROXY)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("admin on"):
            return process
    raise AssertionError(f"the sidecar ended with {process.wait()}")


def answer_http(connection: socket.socket) -> None:
    head = connection.recv(65536)
    name = next((line for line in head.decode().splitlines() if line.startswith("l5d-client-id")), "nobody")
    body = SECRET + b" " + name.encode()
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


def speak_first(connection: socket.socket) -> None:
    connection.sendall(SECRET)


def serve(server: socket.socket, answer: Callable[[socket.socket], None]) -> None:
    def run() -> None:
        while True:
            connection, _ = server.accept()
            with connection:
                answer(connection)

    threading.Thread(target=run, daemon=True).start()


def heard(host: str, port: int, data: bytes = b"") -> bytes:
    with connect(host, port) as client:
        client.sendall(data)
        received = b""
        while chunk := client.recv(65536):
            received += chunk
            if b"mesh.local" in received or received == SECRET:
                break
        return received


def main() -> None:
    hosts, where = Hosts(), identities()
    cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # every packet
    cable.bind(("cable", 0))
    cable.setblocking(False)
    with hosts.elsewhere():
        web, mail = listen(7777), listen(2525)
        theirs = sidecar("--identity", str(where / "api"), "--require-identity")
    serve(web, answer_http)
    serve(mail, speak_first)
    mine = sidecar("--identity", str(where / "web"), *(f"--peer={host}=api.mesh.local" for host in THERE.values()))
    try:
        for version, host in THERE.items():
            request = f"GET / HTTP/1.1\r\nhost: {host if version == 4 else f'[{host}]'}\r\nl5d-client-id: root\r\n\r\n"
            tell(version, "http:", heard(host, 7777, request.encode()).rpartition(b"\n")[2].decode())
            tell(version, "server first:", heard(host, 2525).decode())
        packets = []
        while True:
            try:
                packets.append(cable.recv(65536))
            except BlockingIOError:
                break
        clear = sum(SECRET in packet or b"mesh.local" in packet.replace(b"api.mesh.local", b"") for packet in packets)
        tell("packets:", "some" if len(packets) > 50 else "too few", "in the clear:", clear)
    finally:
        for process in (mine, theirs):
            process.terminate()
            tell("ended:", process.wait())
        shutil.rmtree(where)


main()
