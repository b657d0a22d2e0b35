"""What the origins of the flow tests answer, whatever the version of HTTP."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from tests.patience import PATIENCE

Fields = list[tuple[str, str]]


@dataclass(frozen=True)
class Asked:
    """A request as the origin received it."""

    method: str
    path: str
    version: str
    headers: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)

    def get_all(self, name: str) -> list[str]:
        return [value for field_name, value in self.headers if field_name == name]


@dataclass
class Answer:
    """A response: ``length`` None means that only its end tells.

    ``ends`` says how: as it should, by closing the connection, or by cutting it off in the middle.
    """

    status: int = 200
    headers: Fields = field(default_factory=list)
    chunks: Iterator[bytes] = field(default_factory=lambda: iter(()))
    length: int | None = 0
    trailers: Fields = field(default_factory=list)
    ends: Literal["properly", "by closing", "cut off"] = "properly"
    hints: bool = False
    is_head: bool = False


def random_bytes(size: int) -> bytes:
    """The same bytes for the same size: what /bytes/SIZE answers."""
    return random.Random(size).randbytes(size)


class Application:
    """Answers by path, and remembers what it was asked.

    ``gate`` holds back the second half of /gated/... until a test opens it, ``waiting`` counts who stands there.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.gate = threading.Event()
        self.waiting = threading.Semaphore(0)

    def wait_for_waiting(self, count: int) -> None:
        """Return when ``count`` answers have been half sent."""
        for _ in range(count):
            assert self.waiting.acquire(timeout=PATIENCE), "the origin was not asked in time"

    def answers_early(self, method: str, path: str) -> bool:
        """Whether the answer does not wait for the request's body."""
        del method
        return path == "/refused"

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        kind, _, rest = asked.path.removeprefix("/").partition("/")
        make = getattr(self, "_" + kind.partition("?")[0].replace("-", "_"), None)
        answer: Answer = make(asked, rest) if make else Answer(404)
        answer.is_head = asked.method == "HEAD"
        return answer

    def _hello(self, asked: Asked, rest: str) -> Answer:
        return _whole(b"hello, world!")

    def _echo(self, asked: Asked, rest: str) -> Answer:
        answer = _whole(asked.body)
        answer.headers += [("x-method", asked.method), ("x-version", asked.version)]
        answer.headers += [("x-trailer", f"{name}={value}") for name, value in asked.trailers]
        return answer

    def _headers(self, asked: Asked, rest: str) -> Answer:
        return _whole(json.dumps(asked.headers).encode(), ("content-type", "application/json"))

    def _bytes(self, asked: Asked, rest: str) -> Answer:
        data = random_bytes(int(rest))
        return Answer(200, [], _pieces(data), len(data))

    def _chunked(self, asked: Asked, rest: str) -> Answer:
        return Answer(200, [], _pieces(random_bytes(int(rest)), 10_000), None)

    def _trailers(self, asked: Asked, rest: str) -> Answer:
        fields = [("trailer", "x-checksum")]
        return Answer(200, fields, iter([b"some ", b"content"]), None, [("x-checksum", "abc123")])

    def _status(self, asked: Asked, rest: str) -> Answer:
        status = int(rest)
        return Answer(status, [("x-status", rest)], length=None if status in {204, 304} else 0)

    def _until_close(self, asked: Asked, rest: str) -> Answer:
        return Answer(200, [], _pieces(random_bytes(int(rest))), None, ends="by closing")

    def _cut(self, asked: Asked, rest: str) -> Answer:
        """Declare a length, and die after half of it."""
        data = random_bytes(int(rest))
        return Answer(200, [], _pieces(data[: len(data) // 2]), len(data), ends="cut off")

    def _cut_chunked(self, asked: Asked, rest: str) -> Answer:
        """Declare no length, and die in the middle."""
        return Answer(200, [], _pieces(random_bytes(int(rest))), None, ends="cut off")

    def _gated(self, asked: Asked, rest: str) -> Answer:
        """Send half, and the rest when the gate opens."""
        data = random_bytes(int(rest.partition("/")[0]))
        return Answer(200, [], self._halves(data), len(data))

    def _halves(self, data: bytes) -> Iterator[bytes]:
        yield data[: len(data) // 2]
        self.waiting.release()
        assert self.gate.wait(PATIENCE), "nobody opened the gate"
        yield data[len(data) // 2 :]

    def _held(self, asked: Asked, rest: str) -> Answer:
        """Send nothing at all before the gate opens."""
        self.waiting.release()
        assert self.gate.wait(PATIENCE), "nobody opened the gate"
        return _whole(random_bytes(int(rest)))

    def _hints(self, asked: Asked, rest: str) -> Answer:
        answer = _whole(b"with hints")
        answer.hints = True
        return answer

    def _refused(self, asked: Asked, rest: str) -> Answer:
        return Answer(401, [("content-type", "text/plain")], iter([b"no"]), 2)

    def _cookies(self, asked: Asked, rest: str) -> Answer:
        return _whole(b"", ("set-cookie", "a=1"), ("set-cookie", "b=2; path=/"))


def _whole(data: bytes, *headers: tuple[str, str]) -> Answer:
    return Answer(200, list(headers), iter([data] if data else []), len(data))


def _pieces(data: bytes, size: int = 1 << 16) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))
