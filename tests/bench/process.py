"""Processes under measurement: started in their own group, always ended, asked for CPU time and memory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


class NotStarted(Exception):
    """A server did not listen in time; the message holds the end of what it printed."""


@dataclass(frozen=True)
class Server:
    """A running server and where it listens."""

    name: str
    pid: int
    port: int

    def cpu_seconds(self) -> float:
        """User and system time of the process, all its threads and all its children, dead ones too."""
        ticks = 0
        for index, pid in enumerate(_family(self.pid)):
            fields = _stat(pid)
            ticks += sum(map(int, fields[11:15] if index == 0 else fields[11:13]))
        return ticks / TICK

    def rss_bytes(self) -> int:
        """Resident memory of the process and its children."""
        return sum(_rss(pid) for pid in _family(self.pid))


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(name: str, command: Sequence[str], port: int, directory: Path) -> Iterator[Server]:
    """Run a command that listens on a port, until the end of the block.

    Raises:
        NotStarted: if it ends, or does not accept a connection within 15 s.
    """
    output = directory / f"{name}-{port}.log"
    # Python children find `tests`; a proxy's own output must not cost it a terminal.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), os.getenv("PYTHONPATH")]))}
    with output.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
        )
    try:
        _wait_until_accepting(name, process, port, output)
        yield Server(name, process.pid, port)
    finally:
        _end(process)


def _wait_until_accepting(name: str, process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    deadline = time.perf_counter() + 15
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    tail = output.read_text(errors="replace")[-2000:]
    raise NotStarted(f"{name} does not listen on port {port} (exit status {process.poll()})\n{tail}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group: politely, then surely."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            sys.stderr.write(f"  (pid {process.pid} did not end on SIGTERM within 5 s, killed)\n")
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # start_new_session: the group is this server's alone
    process.wait()


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name, that is from "state" on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _family(root: int) -> list[int]:
    """The process and its descendants, itself first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended meanwhile
    family = [root]
    for pid in family:  # grows while it is walked: breadth first
        family += children.get(pid, [])
    return family


def _rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
