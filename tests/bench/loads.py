"""Load on a port for some seconds: each load returns how much was done, and refuses wrong answers."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench import bulk
from tests.bench.certificates import client_context
from tests.bench.peers import ANSWER, NAME, SERVICES, program


class WrongAnswer(Exception):
    """A round is invalid: something failed, or an answer was not the backend's."""


@dataclass(frozen=True)
class Done:
    """What a round of load achieved: requests or bytes, in seconds of wall time."""

    amount: int
    seconds: float


def check(port: int, protocol: str, certificates: Path | None = None) -> None:
    """Ask once, over TLS where there are certificates, and compare the answer with the backend's.

    Raises:
        WrongAnswer: if it differs.
    """
    option = "--http2-prior-knowledge" if protocol == "http2" else "--http1.1"
    url = f"http://127.0.0.1:{port}/"
    options: list[str] = []
    if certificates is not None:
        url = f"https://{NAME}:{port}/"
        for name, file in (("--cacert", "ca"), ("--cert", "cert"), ("--key", "key")):
            options += [name, str(certificates / f"{file}.pem")]
    command = [program("curl", "apt install curl"), "-4sS", "-m", "10", option, *options, url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if result.stdout != ANSWER:
        raise WrongAnswer(f"expected {ANSWER!r}, got {result.stdout[:200]!r} {result.stderr[:200]}")


_VARIED = Path(__file__).with_name("varied.lua")


def varied(port: int, connections: int, seconds: float) -> Done:
    """HTTP/1.1 keep-alive GETs of which no two have the same head, as a service's own traffic has it."""
    return wrk(port, connections, seconds, "-s", str(_VARIED))


def wrk_tls(port: int, connections: int, seconds: float, _certificates: Path) -> Done:
    """The same over TLS; wrk has no certificate of its own, and verifies none."""
    return wrk(port, connections, seconds, url=f"https://{NAME}:{port}/")


def routed(port: int, connections: int, seconds: float) -> Done:
    """The same to a path that a rule in the middle of many takes."""
    return wrk(port, connections, seconds, url=f"http://127.0.0.1:{port}/service/{SERVICES // 2}/item")


def wrk(port: int, connections: int, seconds: float, *options: str, url: str = "") -> Done:
    """HTTP/1.1 keep-alive GETs over a number of connections."""
    whole = max(1, round(seconds))
    command = [program("wrk", "apt install wrk"), "-t1", f"-c{connections}", f"-d{whole}s", *options]
    text = _output([*command, url or f"http://127.0.0.1:{port}/"], whole)
    # wrk counts what it never got an answer to at its end as neither an error nor a request.
    if "Non-2xx" in text or "Socket errors" in text:
        raise WrongAnswer(" ".join(line.strip() for line in text.splitlines() if "Non-2xx" in line or "errors" in line))
    match = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", text)
    if match is None or int(match[1]) == 0:
        raise WrongAnswer(f"wrk reports no requests: {text[:300]}")
    return Done(int(match[1]), float(match[2]) * {"ms": 0.001, "s": 1, "m": 60}[match[3]])


def h2_varied(port: int, connections: int, seconds: float) -> Done:
    """HTTP/2 GETs of 20,000 paths in turn: heads that are seldom seen twice."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as targets:
        targets.writelines(f"http://127.0.0.1:{port}/item/{n}?q={n * 7919 % 100_003}\n" for n in range(20_000))
        targets.flush()
        return h2load(port, connections, seconds, "-i", targets.name)


def h2load(port: int, connections: int, seconds: float, *options: str) -> Done:
    """HTTP/2 GETs, with prior knowledge, 10 streams at once on each connection."""
    whole = max(1, round(seconds))
    command = [program("h2load", "apt install nghttp2-client"), "-t1", f"-c{connections}", "-m10", f"-D{whole}"]
    text = _output([*command, *(options or [f"http://127.0.0.1:{port}/"])], whole)
    requests = re.search(r"requests: .* (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text)
    if requests is None or statuses is None or int(requests[2]) == 0:
        raise WrongAnswer(f"h2load reports no requests: {text[-400:]}")
    bad = [*map(int, requests.groups()[2:]), *map(int, statuses.groups()[1:])]
    if any(bad):
        raise WrongAnswer(f"{requests[0]}; {statuses[0]}")
    return Done(int(requests[2]), float(whole))


def transfer(port: int, size: int) -> Done:
    """One connection, one direction, ``size`` bytes."""
    received = bulk.receive(port, size)
    if received != size:
        raise WrongAnswer(f"{received} of {size} bytes arrived")
    return Done(size, 0.0)


def transfer_tls(port: int, _connections: int, seconds: float, certificates: Path) -> Done:
    """One connection over mutual TLS, one direction, a quarter of a GiB for each second."""
    size = int(seconds * (1 << 28))
    received = bulk.receive(port, size, client_context(certificates))
    if received != size:
        raise WrongAnswer(f"{received} of {size} bytes arrived")
    return Done(size, 0.0)


_ASK = f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()


def handshakes(port: int, _connections: int, seconds: float, certificates: Path) -> Done:
    """Fresh connections with mutual TLS one after the other, one request on each: only its answer shows that it came."""
    context = client_context(certificates)
    done = 0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _ask_once(context.wrap_socket(raw, server_hostname=NAME))
        done += 1
    return Done(done, time.perf_counter() - started)


def _ask_once(stream: ssl.SSLSocket) -> None:
    with stream:
        stream.sendall(_ASK)
        received = b""
        while not received.endswith(ANSWER.encode()):
            part = stream.recv(4096)
            if not part:
                raise WrongAnswer(f"a fresh connection ended after {received[:60]!r}")
            received += part


def paced(port: int, rate: int, seconds: float) -> list[float]:
    """Send HTTP/1.1 requests at a steady rate over 10 connections; return how long each took, in seconds."""
    with tempfile.NamedTemporaryFile("r", suffix=".log") as log:
        command = [program("h2load", "apt install nghttp2-client"), "--h1", "-t1", "-c10", f"--rps={rate / 10:g}"]
        whole = max(1, round(seconds))
        text = _output([*command, f"-D{whole}", f"--log-file={log.name}", f"http://127.0.0.1:{port}/"], whole)
        rows = [line.split() for line in log.read().splitlines()]
    if not rows or any(status != "200" for _, status, _ in rows):
        raise WrongAnswer(f"h2load reports: {text[-300:]}")
    return sorted(int(took) / 1e6 for _, _, took in rows)


def _output(command: list[str], seconds: int) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20, check=False)
    except subprocess.TimeoutExpired as error:
        raise WrongAnswer(f"{command[0]} did not end within {seconds + 20} s") from error
    if result.returncode:
        raise WrongAnswer(f"{command[0]}: {(result.stderr or result.stdout)[-300:]}")
    return result.stdout


class Idlers:
    """Keep-alive connections that have had one answer each and then say nothing."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: list[socket.socket] = []

    def open(self, count: int, batch: int = 50) -> None:
        """Open ``count`` connections, a few at a time, so that few upstream connections are made.

        Raises:
            WrongAnswer: if one is not answered with the backend's 200.
        """
        for start in range(0, count, batch):
            fresh = [self._ask() for _ in range(min(batch, count - start))]
            self.streams += fresh
            for stream in fresh:
                self._read(stream)

    def _ask(self) -> socket.socket:
        stream = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        stream.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
        return stream

    def _read(self, stream: socket.socket) -> None:
        received = b""
        while not received.endswith(ANSWER.encode()):
            chunk = stream.recv(4096)
            if not chunk:
                raise WrongAnswer(f"connection {len(self.streams)} ended after {received[:100]!r}")
            received += chunk
        if not received.startswith(b"HTTP/1.1 200"):
            raise WrongAnswer(f"idle connection got {received[:60]!r}")

    def alive(self) -> int:
        """How many of the connections are still open."""
        count = 0
        for stream in self.streams:
            stream.setblocking(False)
            try:
                count += bool(stream.recv(1, socket.MSG_PEEK))
            except BlockingIOError:
                count += 1
            except OSError:
                pass
        return count

    def close(self) -> None:
        """Close them all."""
        for stream in self.streams:
            stream.close()
        self.streams.clear()
