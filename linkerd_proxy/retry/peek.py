"""Looking ahead in an answer: gRPC tells in its trailers how a call went, after a head that says 200."""

from __future__ import annotations

import trio

from linkerd_proxy.core.classify import grpc_status_of
from linkerd_proxy.core.message import Body, Response, Whole

__all__ = ["peek"]


async def peek(response: Response, limit: int, patience: float) -> tuple[Response, str]:
    """Return the response, of which nothing is lost, and its gRPC status, or no text if that did not come in time.

    Args:
        response: With ``grpc-status`` in its head, or in the trailers of a body that is pulled here.
        limit: Bytes of the body after which not to look any further.
        patience: Seconds to wait for the body and its end. A stream's first message may take any time, and its client
            may wait for the head before it says something, so this must be short.

    Raises what the body raises: nothing of the answer has gone yet, so that is a failure as any other.
    """
    body = response.body
    if isinstance(body, Whole) or response.headers.get("grpc-status") is not None:
        return response, grpc_status_of(response)
    ahead = _Peeked(body)
    with trio.move_on_after(patience):
        await ahead.fill(limit)
    seen = response.replace(body=ahead)
    return seen, grpc_status_of(seen) if ahead.ended else ""


class _Peeked(Body):
    """A body whose first chunks have been pulled already."""

    __slots__ = ("_body", "_chunks", "ended")

    def __init__(self, body: Body) -> None:
        super().__init__(body.length)
        self._body = body
        self._chunks: list[bytes] = []
        self.ended = False

    async def fill(self, limit: int) -> None:
        """Pull up to the body's end, or until there is more than ``limit`` bytes."""
        size = 0
        while size <= limit:
            chunk = await self._next()
            if not chunk:
                return
            self._chunks.append(chunk)
            size += len(chunk)

    async def pull(self) -> bytes:
        """Return the next chunk, of those ahead first."""
        if self._chunks:
            return self._chunks.pop(0)
        if self.ended:
            return b""
        return await self._next()

    async def _next(self) -> bytes:
        chunk = await self._body.pull()
        if not chunk:
            self.ended = True
            self.trailers = self._body.trailers
        return chunk

    def __repr__(self) -> str:
        return f"<{len(self._chunks)} chunks ahead of {self._body!r}>"
