"""A stream inside TLS, over any other stream."""

from __future__ import annotations

import operator
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from linkerd_proxy.core.work import Tls
from linkerd_proxy.io.streams import Data, abort_nowait, send_now_of, watch_hangup
from linkerd_proxy.tls.engine import MAX_PIECE, Engine

__all__ = ["TlsStream", "take_leave"]

_CHUNK = 65536
_BUDGET = 32  # as SocketStream's
_CLOSE_TIMEOUT = 5.0  # own figure, as in core.contain: for a peer that reads nothing


async def take_leave(stream: TlsStream) -> None:
    """Close a stream whose work is done, without waiting long for a peer that reads nothing. Raises nothing."""
    if stream.close_nowait is not None:
        stream.close_nowait()
        return
    with trio.move_on_after(_CLOSE_TIMEOUT), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.aclose()


class TlsStream(trio.abc.HalfCloseableStream):
    """A connection on which the handshake is finished.

    One task may receive while another sends. ``send_eof`` sends a close_notify and leaves receiving open; the end that
    it gives out is the peer's close_notify. Where the connection ends without one, it may have been cut off by anybody:
    that is ``trio.BrokenResourceError`` and not an end (RFC 8446 section 6.1).

    A call that need not wait is no checkpoint, as with the package's sockets: after ``budget`` calls in a row the
    stream yields. With ``budget=0``, over a stream that keeps Trio's rules, every call is a checkpoint.

    Args:
        stream: What is underneath. The TLS stream owns it.
        engine: The TLS connection, after its handshake.
        budget: How many calls in a row that find plaintext here already may go without a checkpoint.
    """

    __slots__ = (
        "_allowance",
        "_budget",
        "_closed",
        "_engine",
        "_eof_sent",
        "_receive",
        "_receiving",
        "_send",
        "_sending",
        "_torn",
        "bytes_received",
        "bytes_sent",
        "close_nowait",
        "stream",
        "tls",
    )

    def __init__(self, stream: trio.abc.HalfCloseableStream, engine: Engine, *, budget: int = _BUDGET) -> None:
        self.stream: trio.abc.HalfCloseableStream = stream
        self.tls: Tls = engine.facts()
        """What the handshake established."""
        self.bytes_received: int = 0
        """How many bytes of plaintext were given out."""
        self.bytes_sent: int = 0
        """How many bytes of plaintext were handed down."""
        self.close_nowait: Callable[[], None] | None = self._close_nowait if hasattr(stream, "close_nowait") else None
        """Closes at once, with a close_notify if the system takes it; None where the stream underneath can't."""
        self._engine = engine
        self._receive = stream.receive_some
        self._send = send_now_of(stream)
        self._budget = self._allowance = budget
        self._receiving = False
        self._sending = False
        self._eof_sent = False
        self._torn = False  # a record was sent in part, perhaps: nothing can follow it
        self._closed = False

    # --- receiving -----------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = _CHUNK) -> bytes:
        """Return what has arrived, at most ``max_bytes``, waiting for it if need be; ``b""`` at the peer's end.

        Raises:
            trio.BrokenResourceError: if the connection broke, ended without a close_notify, or what came is no TLS.
            trio.ClosedResourceError: if this side closed it, also while waiting.
            trio.BusyResourceError: if another task is receiving.

        Cancelled while waiting, it has received nothing, and may be called again.
        """
        if max_bytes is None:
            max_bytes = _CHUNK
        engine = self._engine
        if (
            type(max_bytes) is not int
            or self._receiving
            or self._closed
            or engine.ended
            or engine.more
            or not max_bytes > 0
        ):
            return await self._receive_here(max_bytes)
        self._receiving = True
        try:
            while True:
                received = await self._receive(_CHUNK)
                if not received:
                    raise trio.BrokenResourceError("the peer's end came without a close_notify: it may be cut short")
                data = engine.decrypt(received, max_bytes)
                if data:
                    self.bytes_received += len(data)
                    return data
                if self._engine.ended:
                    return b""
        finally:
            self._receiving = False

    async def _receive_here(self, max_bytes: int) -> bytes:
        """Receive what is here already, or raise."""
        max_bytes = operator.index(max_bytes)
        self._allowance -= 1
        if self._allowance < 0 or self._closed or self._receiving or max_bytes < 1:
            await trio.lowlevel.checkpoint()
            self._allowance = self._budget
        self._check_open()
        if max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        engine = self._engine
        if engine.more:
            data = engine.decrypt(b"", max_bytes)
            if data:
                self.bytes_received += len(data)
                return data
        if engine.ended:
            return b""
        return await self.receive_some(max_bytes)

    # --- sending -------------------------------------------------------------------------------

    async def send_all(self, data: Data) -> None:
        """Encrypt all of ``data`` and hand it down.

        Raises:
            trio.BrokenResourceError: if the connection broke, or an earlier send was cancelled.
            trio.ClosedResourceError: if this side closed it or sent its end, also while waiting.
            trio.BusyResourceError: if another task is sending.

        Cancelled while waiting, it has sent an unknown part: the stream is good for nothing but receiving and closing.
        """
        rest = self.send_now(data)
        if rest is not None:
            await rest

    def send_now(self, data: Data) -> Awaitable[None] | None:
        """Send what of ``data`` can be sent without waiting: None if that was all, or what to await until it is.

        As :meth:`~linkerd_proxy.io.streams.SocketStream.send_now`, but that what does not fit into four records is left
        to be awaited as a whole.
        """
        size = len(data)
        if self._sending or self._closed or self._eof_sent or self._torn or not 0 < size <= MAX_PIECE:
            return self._send_slowly(data)
        self._torn = True
        rest = self._send(self._engine.encrypt(data))
        if rest is not None:
            self._sending = True
            return self._finish_sending(rest, size)
        self._torn = False
        self.bytes_sent += size
        return None

    async def _finish_sending(self, rest: Awaitable[None], size: int) -> None:
        try:
            await rest
            self._torn = False
            self.bytes_sent += size
        finally:
            self._sending = False

    async def _send_slowly(self, data: Data) -> None:
        if self._sending or self._closed or self._eof_sent or self._torn or not data:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            if not data:
                return
        with memoryview(data) as view:
            for at in range(0, len(data), MAX_PIECE):
                with view[at : at + MAX_PIECE] as piece:
                    rest = self.send_now(piece)
                if rest is not None:
                    await rest

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the stream underneath would take something. Raises as :meth:`send_all` does."""
        if self._sending or self._closed or self._eof_sent or self._torn:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
        self._sending = True
        try:
            await self.stream.wait_send_all_might_not_block()
        finally:
            self._sending = False

    # --- ending --------------------------------------------------------------------------------

    async def send_eof(self) -> None:
        """Tell the peer that this side sends no more; receiving goes on. A second call changes nothing.

        Raises, and is cancelled, as :meth:`send_all`.
        """
        if self._eof_sent and not self._closed:
            await trio.lowlevel.checkpoint()
            return
        if self._sending or self._closed or self._torn:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
        self._sending = self._torn = self._eof_sent = True
        try:
            await self.stream.send_all(self._engine.close_notify())
            self._torn = False
        finally:
            self._sending = False

    async def aclose(self) -> None:
        """Tell the peer, if nothing else is being sent, and close. It does not wait for the peer's own end.

        It waits as long as the stream underneath takes nothing. Cancelled, it is closed all the same, though the peer
        may see it cut off.
        """
        farewell = self._farewell()
        try:
            if farewell:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                    await self.stream.send_all(farewell)
        finally:
            await self.stream.aclose()

    def _farewell(self) -> bytes:
        """Mark the stream closed, and return the bytes that tell the peer if they can still be told."""
        tells = not (self._closed or self._eof_sent or self._torn or self._sending)
        self._closed = True
        return self._engine.close_notify() if tells else b""

    def _close_nowait(self) -> None:
        farewell = self._farewell()
        sock: socket.socket | None = getattr(self.stream, "socket", None)
        if farewell and sock is not None:
            with suppress(OSError):  # a peer that reads nothing is not waited for
                sock.send(farewell)
        self.stream.close_nowait()  # type: ignore[attr-defined]  # it has one, or this would not be called

    def abort(self) -> None:
        """Break the connection off, so that the peer can't take what it got for the whole."""
        self._closed = True
        abort_nowait(self.stream)

    # --- looking -------------------------------------------------------------------------------

    def watch_hangup(self, callback: Callable[[], None] | None) -> None:
        """Watch the stream underneath, if it can tell."""
        watch_hangup(self.stream, callback)

    def is_quiet(self) -> bool:
        """Whether the peer, from whom nothing is expected, has sent neither data nor an end. Never waits.

        Takes what belongs to TLS itself, as tickets. Only where there is a socket underneath: else always True.
        """
        engine = self._engine
        if self._closed or engine.more or engine.ended or self._receiving:
            return False
        sock: socket.socket | None = getattr(self.stream, "socket", None)
        if sock is None:
            return True
        try:
            for _ in range(_BUDGET):  # a peer that sends tickets without end must not keep all others waiting
                received = sock.recv(_CHUNK)
                # One byte is asked for, and more of it waits in the engine: such a connection is given up.
                if not received or engine.decrypt(received, 1) or engine.ended:
                    return False
        except BlockingIOError:
            return True
        except (OSError, trio.BrokenResourceError):
            return False
        return False

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")

    def _check_sendable(self) -> None:
        self._check_open()
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._eof_sent:
            raise trio.ClosedResourceError("this stream's end was sent already")
        if self._torn:
            raise trio.BrokenResourceError("an earlier send was not finished")

    def __repr__(self) -> str:
        if self._closed:
            return "<TlsStream closed>"
        states = [
            name
            for name, holds in (
                ("its sending cut short", self._torn and not self._sending),
                ("sent its end", self._eof_sent),
                ("the peer's end received", self._engine.ended),
            )
            if holds
        ]
        peer = f" with {self.tls.peer_identity}" if self.tls.peer_identity else ""
        return f"<TlsStream {', '.join(states) or 'open'}, {self._engine.describe()}{peer}, over {self.stream!r}>"
