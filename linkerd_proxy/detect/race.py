"""The race between a silent client and a server that may speak first."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import trio

from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.stack import Service
from linkerd_proxy.core.work import Connection
from linkerd_proxy.detect.sniff import MAX_BYTES
from linkerd_proxy.io.rewind import Rewound
from linkerd_proxy.io.streams import abort_nowait, watch_hangup

__all__ = ["Gate", "Outcome", "race"]

Outcome: TypeAlias = bytes | bytearray | Literal["served", "silent", "broken"]
"""The client's first bytes (empty at its end), or how it went without any."""


class Gate(trio.abc.HalfCloseableStream):
    """A client's stream as an attempt at serving it sees it while it is not known who speaks first.

    Nothing that the client sent comes through before the gate is open. The first byte sent to the client opens it, and
    so may the deadline; the client's first byte shuts it for ever. One of these happens first, since each is settled
    between two checkpoints.

    Args:
        stream: The client's.
        attempt: The scope of the attempt, cancelled when it is not wanted any more.
        settled: Called when the gate opens, with the reason.
    """

    __slots__ = ("_attempt", "_heard", "_listening", "_settled", "_source", "heard", "state", "stream")

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        attempt: trio.CancelScope,
        settled: Callable[[Literal["server_first", "timeout"]], None],
    ) -> None:
        self.stream: trio.abc.HalfCloseableStream = stream
        self.state: Literal["racing", "open", "shut"] = "racing"
        self.heard: bytes | bytearray | Literal["silent", "broken"] = "silent"
        """What came of listening to the client, once that is over."""
        self._attempt = attempt
        self._settled = settled
        self._heard = trio.Event()
        self._listening = trio.CancelScope()
        self._source = stream

    def hurry(self, deadline: float) -> None:
        """Give the client until then, at most, for its first byte."""
        self._listening.deadline = min(self._listening.deadline, deadline)

    async def listen(self, deadline: float, adopt: bool) -> None:
        """Wait for the client's first byte, and settle the race unless the server did.

        At the deadline the gate opens if ``adopt`` says so and the attempt is still under way.
        """
        self.hurry(deadline)
        with self._listening:
            try:
                self.heard = await self.stream.receive_some(MAX_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.heard = "broken"
        if self.state == "racing":
            if self.heard == "silent" and adopt and not self._attempt.cancel_called:
                self._open("timeout")
            else:
                self.state = "shut"
                self._attempt.cancel()
        elif isinstance(self.heard, bytes | bytearray) and self.heard:
            # Both spoke in one turn of the scheduler: these bytes come after all.
            self._source = Rewound(self.stream, self.heard)
        self._heard.set()

    def _open(self, reason: Literal["server_first", "timeout"]) -> None:
        self.state = "open"
        self._settled(reason)

    async def _pass(self) -> None:
        if self.state != "open":
            await trio.lowlevel.checkpoint()  # where the cancellation of an attempt that lost is delivered
            raise trio.BrokenResourceError("the client spoke first, or not at all")

    async def receive_some(self, max_bytes: int | None = 65536) -> bytes | bytearray:
        """Wait until the gate is open, and receive what the client sent."""
        if not self._heard.is_set():
            await self._heard.wait()
        await self._pass()
        return await self._source.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send to the client; the first byte opens the gate."""
        if self.state == "racing":
            if not data:
                await trio.lowlevel.checkpoint()
                return
            self._open("server_first")
            self._listening.cancel()
        await self._pass()
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait as the client's stream does."""
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Send the end to the client. A server that ends without a byte did not speak: the attempt is given up."""
        if self.state == "racing":
            self._attempt.cancel()
        await self._pass()
        await self.stream.send_eof()

    async def aclose(self) -> None:
        """Close the client's stream if the gate is open; an attempt that gives up before that leaves it alone."""
        if self.state == "open":
            await self.stream.aclose()
        else:
            await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Reset the client's stream, on the same condition."""
        if self.state == "open":
            abort_nowait(self.stream)

    def watch_hangup(self, callback: Callable[[], None] | None) -> None:
        """Watch the client's stream, if it can tell."""
        watch_hangup(self.stream, callback)

    def __repr__(self) -> str:
        return f"<Gate {self.state}: {self.stream!r}>"


async def race(
    connection: Connection,
    otherwise: Service[Connection],
    *,
    deadline: float,
    then: Literal["adopt", "race", "end"],
    settled: Callable[[Literal["server_first", "timeout"]], None],
) -> Outcome:
    """Serve a silent connection with ``otherwise`` unless the client speaks first.

    Args:
        connection: Silent so far.
        otherwise: What serves it if the server speaks first. Its failure before that is no failure of the connection:
            the client may still speak, and then something else may serve it.
        deadline: How long the client may be silent, as trio.current_time() counts.
        then: What becomes of an attempt under way at the deadline: it goes on for good, or races on as long as the
            server keeps it, or ends.
        settled: Called when the attempt becomes the one that serves the connection.

    Returns:
        ``served`` after ``otherwise`` has served it to the end; otherwise what the client sent, or that it was
        ``silent`` up to the deadline, or ``broken``.

    Raises:
        Exception: what ``otherwise`` raised once it had become the one.
    """
    attempt = trio.CancelScope()
    gate = Gate(connection.stream, attempt, settled)
    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gate.listen, math.inf if then == "race" else deadline, then == "adopt")
            with attempt:
                try:
                    await otherwise(connection.with_stream(gate, protocol="opaque"))
                except Exception as error:
                    failure = error
            attempt.cancel()  # from here on the deadline finds nothing to adopt
            gate.hurry(deadline)
    except ExceptionGroup as group:
        raise unwrapped(group) from None
    if gate.state == "open":
        if failure is not None:
            raise failure
        return "served"
    return gate.heard
