"""The body that a call's messages go out by: one waits at most, until whoever sends it on pulls."""

from __future__ import annotations

import trio

from linkerd_proxy.core.message import Body
from linkerd_proxy.headers import Headers

__all__ = ["Outgoing"]


class Outgoing(Body):
    """A body that another task fills, message by message.

    :meth:`put` waits while the message before is still here: so a peer that opens no window holds the sender back.
    """

    __slots__ = ("_changed", "_chunk", "ended")

    def __init__(self) -> None:
        super().__init__(None)
        self.ended: bool = False
        """Whether there is nothing to come; ``trailers`` tell the rest."""
        self._chunk = b""
        self._changed = trio.Event()

    async def put(self, chunk: bytes) -> None:
        """Hand a message on. Cancelled, it was not sent.

        Raises:
            trio.ClosedResourceError: if the body has ended.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while self._chunk and not self.ended:
            waited = True
            await self._changed.wait()
        if self.ended:
            raise trio.ClosedResourceError("nothing more can be sent")
        self._chunk = chunk
        self._change()
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()

    def end(self, trailers: Headers | None = None) -> None:
        """End the body after what is still here. A second end changes nothing."""
        if not self.ended:
            self.ended = True
            self.trailers = trailers
            self._change()

    @property
    def drained(self) -> bool:
        """Whether all was pulled."""
        return not self._chunk

    async def pull(self) -> bytes:
        """Return the next message, framed."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._chunk and not self.ended:
            await self._changed.wait()
        chunk, self._chunk = self._chunk, b""
        if chunk:
            self._change()
        return chunk

    def _change(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def __repr__(self) -> str:
        return f"<Outgoing messages, {'ended' if self.ended else 'open'}>"
