"""The half of an engine that speaks: streams and their windows, and the frames that we send."""

from __future__ import annotations

from collections.abc import Sequence

from linkerd_proxy.http.h2 import wire
from linkerd_proxy.http.h2.encoder import Encoder
from linkerd_proxy.http.h2.floods import Floods
from linkerd_proxy.http.h2.outbox import Outbox
from linkerd_proxy.http.h2.settings import INITIAL_WINDOW, PeerSettings
from linkerd_proxy.http.h2.stream import Stream
from linkerd_proxy.http.limits import Limits

__all__ = ["Half"]

_REMEMBERED = 256  # closed streams whose end is remembered, so that what was under way is told from a breach


class Half:
    """Streams, windows and sending.

    Args:
        outbox: Where frames go.
        peer: What the peer asked for.
        floods: What is counted.
        limits: How large our windows are.
    """

    def __init__(self, outbox: Outbox, peer: PeerSettings, floods: Floods, limits: Limits) -> None:
        self.outbox = outbox
        self.peer = peer
        self.floods = floods
        self.limits = limits
        self.encoder: Encoder = Encoder()
        self.streams: dict[int, Stream] = {}
        """Those that are not closed."""
        self.recent: dict[int, bool] = {}
        """Streams closed lately, and whether by a reset: what comes late for those is ignored."""
        self.send_window: int = INITIAL_WINDOW
        self.recv_window: int = limits.h2_connection_window
        self.dribbles: int = 0
        """DATA frames that the peer's window made tiny, to be counted when it next opens one."""
        self._credit = 0

    def consumed(self, stream: Stream, size: int) -> None:
        """Open the windows again by what the reader has taken."""
        if stream.dead:
            return  # its bytes were given back when it was reset
        stream.held -= size
        self.give_back(size)
        if not stream.remote_closed:
            stream.credit += size
            if stream.credit * 2 >= self.limits.h2_stream_window:
                stream.recv_window += stream.credit
                self.outbox.put(wire.window_update(stream.id, stream.credit))
                stream.credit = 0

    def give_back(self, size: int) -> None:
        """Open the connection's window again, in steps that are worth a frame."""
        self._credit += size
        if self._credit * 4 >= self.limits.h2_connection_window:
            self.recv_window += self._credit
            self.outbox.put(wire.window_update(0, self._credit))
            self._credit = 0

    # --- sending ---

    def send_head(self, stream: Stream, fields: Sequence[tuple[bytes, bytes]], *, end: bool) -> None:
        """Queue a head or trailers."""
        if stream.dead or stream.local_closed:
            return
        block = self.encoder.encode(fields)
        self.outbox.put(wire.head_frames(stream.id, block, end, self.peer.frame_size))
        if end:
            self._end_local(stream)

    def sendable(self, stream: Stream) -> int:
        """Return how many bytes of content the peer's windows allow now."""
        window = stream.send_window
        return min(window, self.send_window)

    def send_data(self, stream: Stream, data: bytes, *, end: bool) -> None:
        """Queue content, which the windows must allow."""
        if stream.dead or stream.local_closed:
            return
        size = len(data)
        stream.send_window -= size
        self.send_window -= size
        limit = self.peer.frame_size
        at = 0
        while size - at > limit:
            self.floods.data_sent += 1
            self.outbox.put_data(wire.frame_head(wire.DATA, 0, stream.id, limit), data[at : at + limit])
            at += limit
        self.floods.data_sent += 1
        flags = wire.END_STREAM if end else 0
        self.outbox.put_data(wire.frame_head(wire.DATA, flags, stream.id, size - at), data[at:] if at else data)
        if end:
            self._end_local(stream)

    def reset(self, stream: Stream, code: int) -> None:
        """Queue a RST_STREAM, unless the stream is closed already."""
        if stream.dead or (stream.local_closed and stream.remote_closed):
            return
        self.kill(stream)
        self.outbox.put_control(wire.rst_stream(stream.id, code))

    def abandon(self, stream: Stream) -> None:
        """Close a stream without a word, for the peer said that it will not look at it."""
        if not stream.dead and stream.id in self.streams:
            self.kill(stream)

    def dribble(self) -> None:
        """Count a DATA frame that the peer's window made tiny (CVE-2019-9511). Nothing is raised while sending."""
        self.dribbles += 1

    def blame(self) -> None:
        """Count a malformed request, whose stream was reset without the engine's noticing anything wrong."""
        self.floods.own_reset()

    def ping(self, payload: bytes) -> None:
        """Queue a PING of eight bytes."""
        self.outbox.put(wire.frame(wire.PING, 0, 0, payload))

    def goaway(self, last: int, code: int, debug: str = "") -> None:
        """Queue a GOAWAY."""
        self.outbox.put(wire.goaway(last, code, debug.encode("ascii", "replace")[:256]))

    def _end_local(self, stream: Stream) -> None:
        stream.local_closed = True
        if stream.remote_closed:
            self.forget(stream)

    def kill(self, stream: Stream) -> None:
        """Close a stream that was reset."""
        stream.dead = True
        self.give_back(stream.held)  # else the connection's window would leak
        stream.held = 0
        if self.streams.pop(stream.id, None) is not None:
            self.remember(stream.id, reset=True)

    def forget(self, stream: Stream) -> None:
        """Close a stream on which both sides have said all."""
        del self.streams[stream.id]
        self.remember(stream.id, reset=False)

    def remember(self, stream_id: int, *, reset: bool) -> None:
        """Keep in mind how a stream ended."""
        recent = self.recent
        recent[stream_id] = reset
        if len(recent) > _REMEMBERED:
            del recent[next(iter(recent))]
