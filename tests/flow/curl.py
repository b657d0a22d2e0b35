"""curl as a function."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

import pytest

from tests.patience import PATIENCE

Fields = list[tuple[str, str]]


@dataclass
class Curled:
    """What curl got: the last response's head, the body, and its own messages."""

    exit_status: int
    output: bytes
    errors: str

    def _split(self) -> tuple[list[str], bytes]:
        rest = self.output
        while True:
            head, _, rest = rest.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            if not (lines[0].startswith("HTTP/") and lines[0].split()[1].startswith("1")):  # 1xx come first
                return lines, rest

    @property
    def version(self) -> str:
        return self._split()[0][0].split()[0].removeprefix("HTTP/")

    @property
    def status(self) -> int:
        words = self._split()[0][0].split()
        return int(words[1]) if len(words) > 1 else 0

    @property
    def body(self) -> bytes:
        return self._split()[1]

    def get_all(self, name: str) -> list[str]:
        pairs = (line.partition(": ") for line in self._split()[0][1:])
        return [value for key, _, value in pairs if key.lower() == name]


def curl(*arguments: str, stdin: bytes = b"", check: bool = True) -> Curled:
    """Run curl, with the response's head in its output unless ``-o`` sends that elsewhere."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed: apt install curl")
    include = [] if "-o" in arguments or "-I" in arguments else ["-i"]
    command = [program, "-sS", "-m", f"{PATIENCE:g}", "--noproxy", "*", *include, *arguments]
    result = subprocess.run(command, input=stdin, capture_output=True, timeout=PATIENCE, check=False)
    if check:
        assert result.returncode == 0, result.stderr.decode()
    return Curled(result.returncode, result.stdout, result.stderr.decode("latin-1"))
