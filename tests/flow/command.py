"""The real command as a subprocess on port 0."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.patience import PATIENCE

_BOUND = re.compile(r"listening on .*?127\.0\.0\.1:(\d+)", re.IGNORECASE)


class Proxy:
    """A running ``linkerd-proxy run``: its port, what it printed, and how it ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.port = 0
        self._bound = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            match = _BOUND.search(line)
            if match and not self.port:
                self.port = int(match[1])
                self._bound.set()
        self._bound.set()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_bound(self) -> None:
        """Return when the command has said where it listens."""
        assert self._bound.wait(PATIENCE), f"not bound after {PATIENCE} s:\n{self.output}"
        assert self.port, f"it ended with {self.process.wait(PATIENCE)}:\n{self.output}"

    def terminate(self) -> None:
        """Ask for a drain."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Return the exit status, once it has ended by itself."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def proxy(*options: str) -> Iterator[Proxy]:
    """Run ``linkerd-proxy run --listen 127.0.0.1:0 OPTIONS``; at the end it must not have met a bug of its own."""
    command = [str(Path(sys.executable).with_name("linkerd-proxy")), "run", "--listen", "127.0.0.1:0", *options]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    running = Proxy(process)
    try:
        running.wait_bound()
        yield running
    finally:
        running.close()
    assert "Traceback" not in running.output, running.output
    assert " BUG " not in running.output, running.output
