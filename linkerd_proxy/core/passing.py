"""Bodies that pass another one on, for layers that look at what goes through them."""

from __future__ import annotations

from linkerd_proxy.core.message import Body, Whole

__all__ = ["Passing", "counted", "size_of"]


class Passing(Body):
    """A body that passes another one on, chunk by chunk, and changes nothing.

    A subclass looks at what passes in :meth:`passed`.
    """

    __slots__ = ("body",)

    def __init__(self, body: Body) -> None:
        super().__init__(body.length)
        self.trailers = body.trailers
        self.body: Body = body

    async def pull(self) -> bytes:
        """Return the next chunk."""
        chunk = await self.body.pull()
        self.trailers = self.body.trailers
        self.passed(chunk)
        return chunk

    def passed(self, chunk: bytes) -> None:
        """Look at a chunk that was pulled, ``b""`` at the end: ``trailers`` are there then."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.body!r}>"


class _Counted(Passing):
    __slots__ = ("size",)

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self.size = 0

    def passed(self, chunk: bytes) -> None:
        """Count it."""
        self.size += len(chunk)


def counted(body: Body) -> Body:
    """Return a body whose bytes :func:`size_of` knows: itself if it is whole, or one that passes it on."""
    return body if isinstance(body, Whole) else _Counted(body)


def size_of(body: Body) -> int:
    """Return how many bytes were pulled of a body that :func:`counted` returned; all of them if it is whole."""
    return body.size if isinstance(body, _Counted) else body.length or 0
