"""Request bodies that can be sent again: what was pulled is kept, up to a bound, while it streams."""

from __future__ import annotations

from collections.abc import Callable

from linkerd_proxy.core.message import EMPTY, Body, Whole

__all__ = ["Replay"]


class Replay:
    """One request's body, for several tries: each gets all of it, and what nobody has pulled yet is pulled once.

    A body in memory is no trouble. Of one that streams, the chunks that passed are kept as long as they are ``limit``
    bytes together at most; a body that outgrows that is passed on as it comes, and can't be sent again.

    Args:
        body: The client's.
        limit: Bytes to keep.
        on_lost: Called when the body outgrows the limit.
    """

    __slots__ = ("_body", "_chunks", "_data", "_ended", "_limit", "_on_lost", "_reader", "_size", "lost")

    def __init__(self, body: Body, limit: int, on_lost: Callable[[], None] | None = None) -> None:
        self._body = body
        self._on_lost = on_lost
        self._data: bytes | None = body.data if isinstance(body, Whole) else None
        # What says beforehand that it is too large is not even begun to be kept.
        self._limit = limit if body.length is None or body.length <= limit else 0
        self._chunks: list[bytes] = []
        self._size = 0
        self._ended = False
        self._reader: _Replayed | None = None
        self.lost: bool = False
        """Whether some of it was pulled and not kept, so that no further try can have all of it."""

    @property
    def kept(self) -> int:
        """How many bytes of a streaming body are kept."""
        return self._size

    @property
    def complete(self) -> bool:
        """Whether all of it is here, so that several tries may read at once."""
        return self._data is not None or (self._ended and not self.lost)

    def body(self) -> Body:
        """Return the body for the next try, from its first byte.

        The try before must be over, unless the replay is ``complete``: only one can pull what is still to come.
        """
        if self._data is not None:
            return Whole(self._data, self._body.trailers) if self._data or self._body.trailers else EMPTY
        if self._reader is not None and not self._ended:
            self._reader.over = True
        reader = self._reader = _Replayed(self, self._body.length)
        return reader

    def release(self) -> None:
        """Keep nothing more, for there will be no further try: the one that reads gets the rest as it comes."""
        if self._data is None and not self._ended:
            self._limit = -1

    async def pull(self, reader: _Replayed) -> bytes:
        """Return the chunk at a reader's place."""
        if reader.over:
            raise RuntimeError("this try is over: the body is read by the next one")
        if reader.at < len(self._chunks):
            reader.at += 1
            return self._chunks[reader.at - 1]
        if self._ended:
            reader.trailers = self._body.trailers
            return b""
        chunk = await self._body.pull()
        if not chunk:
            self._ended = True
            reader.trailers = self._body.trailers
        elif not self.lost:
            self._keep(chunk, reader)
        return chunk

    def _keep(self, chunk: bytes, reader: _Replayed) -> None:
        self._size += len(chunk)
        if self._size <= self._limit:
            self._chunks.append(chunk)
            reader.at += 1
            return
        self.lost = True
        self._size = 0
        self._chunks = []
        reader.at = 0
        if self._on_lost is not None:
            self._on_lost()

    def __repr__(self) -> str:
        state = "lost" if self.lost else "complete" if self.complete else f"{self._size} bytes kept"
        return f"<Replay of {self._body!r}, {state}>"


class _Replayed(Body):
    """The body as one try pulls it."""

    __slots__ = ("_replay", "at", "over")

    def __init__(self, replay: Replay, length: int | None) -> None:
        super().__init__(length)
        self._replay = replay
        self.at: int = 0
        self.over: bool = False

    async def pull(self) -> bytes:
        """Return the next chunk: one that was kept, or else the client's next."""
        return await self._replay.pull(self)

    def __repr__(self) -> str:
        return f"<{self._replay!r} at chunk {self.at}>"
