"""One HTTP/2 connection's bytes: a reader, a writer, and the queue of those who wait to send."""

from __future__ import annotations

from collections import deque

import trio

from linkerd_proxy.core.waiter import Waiter
from linkerd_proxy.http.deadlines import Deadlines
from linkerd_proxy.http.h2.codes import ErrorCode, Violation
from linkerd_proxy.http.h2.engine import Engine
from linkerd_proxy.http.h2.stream import Stream
from linkerd_proxy.http.limits import Limits

__all__ = ["QUANTUM", "Link"]

QUANTUM = 16_384
"""Bytes that a stream may queue before it is the next one's turn, when several wait."""

_READ = 65_536
_CLOSE_TIMEOUT = 1.0  # own figure: a peer that does not read must not delay the end
_DISCARD = 262_144


class Link:
    """What both ends of a connection share. Subclasses are the engine's sink.

    Args:
        limits: Limits and deadlines.
        deadlines: Where deadlines are kept.
    """

    engine: Engine
    stream: trio.abc.HalfCloseableStream

    def __init__(self, limits: Limits, deadlines: Deadlines) -> None:
        self.limits = limits
        self.deadlines = deadlines
        self.ending: bool = False
        """Whether the reader is to stop, and what is queued to be the last."""
        self.eof: bool = False
        """Whether the peer sends nothing more."""
        self.blocked: deque[Waiter] = deque()
        """Streams that wait for the connection's window or for room in the outbox, first come first served."""
        self._turns = 0  # given and not yet used
        self._writer = Waiter()
        self._gate = Waiter()
        self._read_scope = trio.CancelScope()
        self._write_scope = trio.CancelScope()
        self._keep_alive = deadlines.add(self._ask)
        self._arrival = deadlines.add(self._too_slow)
        self._stall = deadlines.add(self._stalled)
        self._asked = False
        self.breach: Violation | None = None
        """How the peer broke the protocol, once it did."""

    # --- for subclasses ---

    def received(self) -> None:
        """Act on what the engine reported while it took in some bytes."""

    def last_stream(self) -> int:
        """Return the stream that a GOAWAY on an error names."""
        raise NotImplementedError

    def busy(self) -> bool:
        """Whether there are streams."""
        raise NotImplementedError

    # --- the engine's sink ---

    def on_output(self) -> None:
        """Wake the writer, which runs once everybody has had his turn."""
        self._writer.wake()

    def on_connection_window(self) -> None:
        """Let the next streams send."""
        self.wake_senders()

    def on_pong(self, payload: bytes) -> None:
        """Take a PING's answer as a sign of life, which every read is already."""

    # --- sending ---

    def allowance(self, stream: Stream) -> int:
        """Return how many bytes of content may be queued for a stream now: 0 means wait."""
        if self.engine.outbox.unsent >= self.limits.h2_send_buffer:
            return 0
        return self.engine.sendable(stream)

    @property
    def crowded(self) -> bool:
        """Whether streams wait for their turn, so that nobody may go before them."""
        return bool(self.blocked) or self._turns > 0

    async def turn(self, sender: Waiter, stream: Stream) -> bool:
        """Wait for the turn to queue one quantum; False if woken for another reason (its own window, a reset)."""
        if not self.crowded and self.allowance(stream) > 0:
            return True
        self.blocked.append(sender)
        try:
            self.wake_senders()
            if sender in self.blocked:
                await sender.wait()
        finally:
            if sender in self.blocked:
                self.blocked.remove(sender)
                called = False
            else:
                self._turns -= 1
                called = True
        return called

    def wake_senders(self) -> None:
        """Give those who wait a turn, as many as there is room for."""
        blocked = self.blocked
        if blocked:
            room = min(self.engine.send_window, self.limits.h2_send_buffer - self.engine.outbox.unsent)
            room -= self._turns * QUANTUM
            while blocked and room > 0:
                self._turns += 1
                blocked.popleft().wake()
                room -= QUANTUM

    def end(self) -> None:
        """Stop reading; what is queued is still written."""
        self.ending = True
        self._read_scope.cancel()
        self._writer.wake()

    async def write(self) -> None:
        """Write what is queued, all of one scheduler turn at once, until the end."""
        outbox = self.engine.outbox
        try:
            with self._write_scope:
                while True:
                    if outbox.queued == outbox.taken:
                        if self.ending:
                            return
                        await self._writer.wait()
                        continue
                    data = outbox.take()
                    self._stall.deadline = trio.current_time() + self.limits.write_stall
                    await self.stream.send_all(data)
                    self._stall.deadline = _NEVER
                    outbox.sent(len(data))
                    self.wake_senders()
                    self._gate.wake()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self._read_scope.cancel()

    def _stalled(self) -> None:
        self.breach = self.breach or Violation(ErrorCode.NO_ERROR, "the peer takes nothing of what is sent to it")
        self._write_scope.cancel()

    # --- reading ---

    async def read(self, initial: bytes = b"") -> None:
        """Take in what the peer sends until it ends, breaks the protocol, or :meth:`end` is called."""
        self._arrival.deadline = trio.current_time() + self.limits.h2_preface_timeout
        try:
            with self._read_scope:
                if initial:
                    self._take(initial)
                while True:
                    # What is read makes more to write (acknowledgements, answers), and who does not read gets no more.
                    while self.engine.outbox.other > self.limits.h2_send_buffer:
                        await self._gate.wait()
                    data = await self.stream.receive_some(_READ)
                    if not data:
                        self.eof = True
                        return
                    self._take(bytes(data))
        except Violation as violation:
            self.breach = violation
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.eof = True

    def _take(self, data: bytes) -> None:
        engine = self.engine
        frames = engine.frames
        engine.receive(data)
        self._asked = False
        if self.limits.h2_keep_alive_interval and self.busy():
            self.expect_life()
        if not engine.inside and engine.greeted:
            self._arrival.deadline = _NEVER
        elif engine.greeted and (engine.frames != frames or self._arrival.deadline == _NEVER):
            slow = self.limits.h2_preface_timeout if engine.in_block else self.limits.body_idle
            self._arrival.deadline = trio.current_time() + slow
        self.received()

    def _too_slow(self) -> None:
        self.fail(Violation(ErrorCode.SETTINGS_TIMEOUT, "SETTINGS or the rest of a frame did not come in time"))

    def expect_life(self) -> None:
        """Ask the peer for a sign of life if none comes by itself."""
        self._keep_alive.deadline = trio.current_time() + self.limits.h2_keep_alive_interval

    def _ask(self) -> None:
        """Ask a silent peer for a sign of life, and give up on one that has not answered."""
        if self._asked:
            self.fail(Violation(ErrorCode.NO_ERROR, "no answer to a PING (h2_keep_alive_timeout)"))
        elif self.busy():
            self._asked = True
            self.engine.ping(b"l5d-live")
            self._keep_alive.deadline = trio.current_time() + self.limits.h2_keep_alive_timeout

    def fail(self, violation: Violation) -> None:
        """End the connection because of the peer, from a callback."""
        self.breach = self.breach or violation
        self.end()

    # --- the end ---

    def say_goodbye(self) -> None:
        """Queue what the peer is told at the end, and let the writer finish."""
        if self.breach is not None:
            self.engine.goaway(self.last_stream(), self.breach.code, self.breach.problem)
        self.ending = True
        self._writer.wake()
        self._write_scope.deadline = trio.current_time() + _CLOSE_TIMEOUT

    async def linger(self) -> None:
        """Let the peer read the GOAWAY: a close with bytes unread would make the kernel reset the connection."""
        if self.eof or self.engine.outbox.unsent:
            return  # it is gone, or does not read
        with trio.CancelScope(deadline=self._write_scope.deadline):  # what the goodbye left of its second
            try:
                await self.stream.send_eof()
                size = 0
                while size < _DISCARD and (data := await self.stream.receive_some(_READ)):
                    size += len(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    def forget(self) -> None:
        """Take the connection's deadlines out."""
        for entry in (self._keep_alive, self._arrival, self._stall):
            self.deadlines.remove(entry)


_NEVER = float("inf")
