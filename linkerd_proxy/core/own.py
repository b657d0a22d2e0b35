"""The connection of an exchange that nobody outside asked for: what a client of our own puts into a stack."""

from __future__ import annotations

import trio

from linkerd_proxy.address import Address
from linkerd_proxy.core.work import Connection

__all__ = ["own_connection"]

_HERE = Address("127.0.0.1", 0)


class _Nobody(trio.abc.HalfCloseableStream):
    """There is no client: this program itself asks."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Refuse: there is nobody."""
        raise trio.ClosedResourceError

    async def wait_send_all_might_not_block(self) -> None:
        """Refuse: there is nobody."""
        raise trio.ClosedResourceError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Refuse: there is nobody."""
        raise trio.ClosedResourceError

    async def send_eof(self) -> None:
        """Refuse: there is nobody."""
        raise trio.ClosedResourceError

    async def aclose(self) -> None:
        """Do nothing."""
        await trio.lowlevel.checkpoint()

    def __repr__(self) -> str:
        return "<nobody's stream>"


def own_connection() -> Connection:
    """Return a connection for exchanges of our own, whose stream is closed."""
    return Connection(_Nobody(), _HERE, _HERE)
