"""One direction of a relay: bytes that the reactor moves from one socket to another."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from linkerd_proxy.io.reactor import Reactor
from linkerd_proxy.io.splice import Pipe, current_pipes, splice
from linkerd_proxy.io.streams import SocketStream

__all__ = ["Flow"]

_TURN = 16  # chunks per turn, and
_SHARE = 1 << 19  # bytes per turn, so that a bulk transfer delays others by a few tenths of a millisecond
_BULK = 2  # full buffers in a row after which data is spliced
_SMALL = 16384  # a splice of less does not pay
_LEAVE = 4  # small splices in a row after which data is copied again


class Flow:
    """Moves bytes from ``source`` to ``sink`` whenever it is called, without ever blocking.

    Small messages are received and sent; after two full buffers in a row the bytes go through a pipe and never come
    to user space. What the sink did not take is held, and nothing more is read meanwhile: that is the back-pressure.

    Args:
        reactor: Calls :meth:`move` again when this flow used up its turn.
        source: Where bytes come from; lent by its owner.
        sink: Where they go, and their end.
        on_end: Called when the end was passed on.
        on_error: Called with the stream that broke, and how.
    """

    __slots__ = (
        "_full",
        "_on_end",
        "_on_error",
        "_pipe",
        "_pipes",
        "_queued",
        "_reactor",
        "_recv_into",
        "_send",
        "_small",
        "_stops_short",
        "careful",
        "held",
        "moved",
        "over",
        "sink",
        "source",
        "stuck",
    )

    def __init__(
        self,
        reactor: Reactor,
        source: SocketStream,
        sink: SocketStream,
        on_end: Callable[[], None],
        on_error: Callable[[SocketStream, OSError], None],
    ) -> None:
        self.source: SocketStream = source
        self.sink: SocketStream = sink
        self.held: bytes = b""
        """What was read, or put back, and not taken by the sink yet."""
        self.stuck: bool = False
        """Whether the sink must take something before more is read."""
        self.careful: bool = True
        """Whether the end may follow a short read without a further event."""
        self.moved: int = 0
        self.over: bool = False
        self._stops_short = source.stops_short
        self._on_end = on_end
        self._on_error = on_error
        self._reactor = reactor
        self._recv_into = source.socket.recv_into
        self._send = sink.socket.send
        self._pipes = current_pipes()
        self._pipe: Pipe | None = None
        self._full = self._small = 0
        self._queued = False

    def put_back(self, data: bytes) -> None:
        """Send ``data`` before anything from the source."""
        self.held = data
        self.stuck = bool(data)
        self.moved += len(data)

    def move(self) -> None:
        """Move what can be moved now, up to one turn's share."""
        if self.over or (self.stuck and not self._flushed()):
            return
        limit = self.moved + _SHARE
        for _ in range(_TURN):
            if not (self._copy() if self._full < _BULK else self._splice()):
                return
            if self.moved >= limit:
                break
        self._move_again()

    def _move_again(self) -> None:
        if not self._queued:
            self._queued = True
            self._reactor.call_again(self._next_turn)

    def _next_turn(self) -> None:
        self._queued = False
        self.move()

    # --- small messages ------------------------------------------------------------------------

    def _copy(self) -> bool:
        """Receive and send once. Returns whether there may be more to move now."""
        view = self._reactor.scratch
        try:
            count = self._recv_into(view)
        except BlockingIOError:
            self.careful = self._stops_short
            return False
        except OSError as error:
            return self._fail(self.source, error)
        if not count:
            return self._end()
        self.moved += count
        self.source.bytes_received += count
        try:
            sent = self._send(view[:count])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            return self._fail(self.sink, error)
        self.sink.bytes_sent += sent
        if sent < count:
            self.held = bytes(view[sent:count])
            return self._flushed()
        if count < len(view):
            self._full = 0
            return self.careful
        self._full += 1
        return True

    def _flushed(self) -> bool:
        """Try to get rid of what is held. Returns whether nothing is."""
        try:
            while self.held:
                sent = self._send(self.held)
                self.sink.bytes_sent += sent
                self.held = self.held[sent:]
            pipe = self._pipe
            if pipe is not None:
                while pipe.held:
                    sent = splice(pipe.read_fd, self.sink.fileno(), pipe.held)
                    self.sink.bytes_sent += sent
                    pipe.held -= sent
        except BlockingIOError:
            self.stuck = True
            return False
        except OSError as error:
            return self._fail(self.sink, error)
        self.stuck = False
        return True

    # --- bulk ----------------------------------------------------------------------------------

    def _splice(self) -> bool:
        """Move one pipe's fill. Returns whether there may be more to move now."""
        pipe = self._pipe
        if pipe is None:
            pipe = self._pipe = self._pipes.take()
            if pipe is None:
                self._full = 0
                return True
        try:
            count = splice(self.source.fileno(), pipe.write_fd, pipe.size)
        except BlockingIOError:
            self.careful = self._stops_short
            self._give_back()
            return False
        except OSError as error:
            return self._fail(self.source, error)
        if not count:
            return self._end()
        self.moved += count
        self.source.bytes_received += count
        self._reactor.counts.spliced_bytes += count
        pipe.held = count
        self._small = 0 if count >= _SMALL else self._small + 1
        if not self._flushed():
            return False
        if self._small >= _LEAVE:
            self._full = self._small = 0
            self._give_back()
        return True

    def _give_back(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            self._pipes.give_back(pipe)

    # --- ending --------------------------------------------------------------------------------

    def _end(self) -> bool:
        try:
            self.sink.shut()
        except OSError as error:
            return self._fail(self.sink, error)
        self.stop()
        self._on_end()
        return False

    def check_source(self) -> None:
        """Notice a reset of the source although nothing can be read from it now, for want of room in the sink."""
        code = self.source.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(self.source, OSError(code, os.strerror(code)))

    def _fail(self, stream: SocketStream, error: OSError) -> bool:
        self.stop()
        self._on_error(stream, error)
        return False

    def stop(self) -> None:
        """Move nothing more, and drop what is held."""
        self.over = True
        self.stuck = False
        self.held = b""
        self._give_back()

    def __repr__(self) -> str:
        state = "over" if self.over else "stuck" if self.stuck else "open"
        return f"<Flow {state}, {self.moved} bytes moved>"
