"""Byte scripts: a conversation that reads like the wire, played against a stream."""

from __future__ import annotations

import difflib
import random
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

import trio
import trio.testing

__all__ = ["EOF", "RESET", "End", "Script", "ScriptMismatch"]


class End(Enum):
    """How a direction of a stream ends."""

    EOF = "EOF"
    """In order: everything was sent."""
    RESET = "RESET"
    """With an error: whatever was sent may be lost."""

    def __repr__(self) -> str:
        return self.value


EOF: Final = End.EOF
RESET: Final = End.RESET


class ScriptMismatch(AssertionError):
    """The peer did not say what the script expects, or not in time."""


@dataclass(frozen=True, slots=True)
class _Send:
    what: bytes | End


@dataclass(frozen=True, slots=True)
class _Expect:
    what: bytes | re.Pattern[bytes] | End


@dataclass(frozen=True, slots=True)
class _Pause:
    seconds: float


_Step: TypeAlias = _Send | _Expect | _Pause
_HOW = {_Send: ">>", _Expect: "<<"}


@dataclass(frozen=True, slots=True)
class Script:
    r"""What one side of a stream says, and what it expects to hear, in order.

    ``>>`` sends, ``<<`` expects::

        hello = (
            Script()
            >> b"GET / HTTP/1.1\\r\\nHost: a\r\n\r\n"
            << b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
            >> EOF
            << EOF
        )
        await hello.play(stream)

    ``>> EOF`` ends what this side sends, ``>> RESET`` closes abruptly. ``<< re.compile(rb"...")`` takes what the
    pattern matches from where the script stands, ``<< EOF`` expects the end and nothing before it, ``<< RESET`` expects
    that the stream broke or ended. A script is a value: scripts share beginnings, and play as often as one likes.
    """

    steps: tuple[_Step, ...] = ()

    def __rshift__(self, what: bytes | End) -> Script:
        """Return this script, and then sending."""
        return Script((*self.steps, _Send(what)))

    def __lshift__(self, what: bytes | re.Pattern[bytes] | End) -> Script:
        """Return this script, and then expecting."""
        return Script((*self.steps, _Expect(what)))

    def pause(self, seconds: float) -> Script:
        """Return this script, and then silence of this side for so many seconds."""
        return Script((*self.steps, _Pause(seconds)))

    async def play(
        self,
        stream: trio.abc.HalfCloseableStream,
        *,
        timeout: float = 30.0,
        split: int | random.Random | None = None,
    ) -> bytes:
        """Play the script on a stream, which stays open unless the script resets it.

        Args:
            stream: This side's end.
            timeout: Seconds that the whole conversation may take.
            split: None sends each ``>>`` at once; a number sends pieces of that many bytes, and a ``random.Random``
                pieces of one to seven bytes. Between two pieces every other task runs until it waits.

        Returns:
            Everything that was received.

        Raises:
            ScriptMismatch: naming the step, what was expected and what came.
        """
        player = _Player(self, stream, split)
        with trio.move_on_after(timeout) as scope:
            await player.play()
        if scope.cancelled_caught:
            raise player.mismatch(f"nothing more came within {timeout:g} s")
        return bytes(player.heard)

    def __repr__(self) -> str:
        text, simple = "Script()", True
        for step in self.steps:
            if isinstance(step, _Pause):
                # A call binds tighter than a shift.
                text, simple = f"{text if simple else f'({text})'}.pause({step.seconds:g})", True
            else:
                text, simple = f"{text} {_HOW[type(step)]} {step.what!r}", False
        return text


class _Player:
    """One performance of a script."""

    def __init__(self, script: Script, stream: trio.abc.HalfCloseableStream, split: int | random.Random | None) -> None:
        self.script = script
        self.stream = stream
        self.split = split
        self.heard = bytearray()
        self.taken = 0
        self.ended: End | None = None
        self.at = 0

    async def play(self) -> None:
        for at, step in enumerate(self.script.steps):
            self.at = at
            match step:
                case _Send(End() as end):
                    await self.end(end)
                case _Send(bytes() as data):
                    await self.send(data)
                case _Expect(bytes() as data):
                    await self.expect(data)
                case _Expect(re.Pattern() as pattern):
                    await self.expect_match(pattern)
                case _Expect(End() as end):
                    await self.expect_end(end)
                case _Pause(seconds):
                    await trio.sleep(seconds)
        if self.rest:
            raise self.mismatch("the peer said more than the script expects")

    @property
    def rest(self) -> bytes:
        """What was received and not yet expected."""
        return bytes(self.heard[self.taken :])

    # --- sending -------------------------------------------------------------------------------

    async def send(self, data: bytes) -> None:
        for piece in self.pieces(data):
            try:
                await self.stream.send_all(piece)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise self.mismatch(f"the peer takes nothing more ({type(error).__name__})") from error
            if len(piece) < len(data):
                await trio.testing.wait_all_tasks_blocked()

    def pieces(self, data: bytes) -> list[bytes]:
        pieces: list[bytes] = []
        start = 0
        while start < len(data):
            size = self.split.randint(1, 7) if isinstance(self.split, random.Random) else self.split or len(data)
            pieces.append(data[start : start + size])
            start += size
        return pieces

    async def end(self, end: End) -> None:
        if end is EOF:
            try:
                await self.stream.send_eof()
            except trio.BrokenResourceError as error:
                raise self.mismatch("the peer takes nothing more, not even the end") from error
            return
        abort = getattr(self.stream, "abort", None)
        if abort is not None:
            abort()
        else:
            await trio.aclose_forcefully(self.stream)

    # --- expecting -----------------------------------------------------------------------------

    async def expect(self, data: bytes) -> None:
        while not (rest := self.rest).startswith(data):
            if not data.startswith(rest):
                raise self.mismatch("the peer said something else")
            if not await self.hear():
                raise self.mismatch(f"the peer ended ({self.ended!r}) before it had said this")
        self.taken += len(data)

    async def expect_match(self, pattern: re.Pattern[bytes]) -> None:
        while (match := pattern.match(self.rest)) is None:
            if not await self.hear():
                raise self.mismatch(f"the peer ended ({self.ended!r}) before anything matched")
        self.taken += match.end()

    async def expect_end(self, end: End) -> None:
        while not self.rest and await self.hear():
            pass
        if self.rest:
            raise self.mismatch("the peer said something in the place of its end")
        if end is EOF and self.ended is RESET:
            raise self.mismatch("the stream broke in the place of ending in order")

    async def hear(self) -> bool:
        """Receive more; return False at the end."""
        if self.ended is None:
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                self.ended = RESET
            else:
                self.heard += data
                if not data:
                    self.ended = EOF
        return self.ended is None

    # --- telling -------------------------------------------------------------------------------

    def mismatch(self, problem: str) -> ScriptMismatch:
        step = self.script.steps[self.at]
        lines = [f"step {self.at + 1} of {len(self.script.steps)}: {problem}"]
        if isinstance(step, _Expect) and isinstance(step.what, bytes):
            lines += difflib.ndiff(_lines(step.what), _lines(self.rest))
        elif isinstance(step, _Expect):
            lines += [f"- {step.what!r}", *(f"+ {line}" for line in _lines(self.rest))]
        else:
            lines += [f"+ {line}" for line in _lines(self.rest)]
        return ScriptMismatch("\n".join(line.rstrip("\n") for line in lines))


def _lines(data: bytes) -> list[str]:
    return [repr(line) for line in data.splitlines(keepends=True)]
