"""Connections without a network: a listener in memory, and the leaf that connects to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
import trio.testing

from linkerd_proxy.address import Address, AnyAddress
from linkerd_proxy.core.stack import Service, Stack
from linkerd_proxy.core.work import Connection, Dial, Protocol, Tls
from linkerd_proxy.errors import ConnectFailed

__all__ = ["MemoryConnect", "MemoryListener", "memory_connection"]

_LOCAL = Address("127.0.0.1", 8080)
_FIRST_PORT = 49152  # RFC 6335 section 6: where dynamic ports begin


def memory_connection(
    *,
    peer: AnyAddress = Address("127.0.0.1", _FIRST_PORT),  # noqa: B008  # a frozen value
    local: AnyAddress = _LOCAL,
    original_dst: AnyAddress | None = None,
    tls: Tls | None = None,
    protocol: Protocol | None = None,
    lockstep: bool = False,
) -> tuple[trio.abc.HalfCloseableStream, Connection]:
    """Return the client's end of a new connection, and the connection as a service sees it.

    Args:
        peer: Where the client pretends to be.
        local: Where it pretends to have connected to.
        original_dst: Where it meant to go.
        tls: What a handshake established.
        protocol: What it is known to speak.
        lockstep: Whether a send waits until every byte of it was received. Without it, sending never waits.
    """
    client: trio.abc.HalfCloseableStream
    server: trio.abc.HalfCloseableStream
    client, server = trio.testing.lockstep_stream_pair() if lockstep else trio.testing.memory_stream_pair()
    return client, Connection(server, peer, local, original_dst=original_dst, tls=tls, protocol=protocol)


class MemoryListener:
    """A listener whose connections are pairs of memory streams; it satisfies ``core.serve.Listener``.

    Args:
        address: Where it pretends to listen.
        lockstep: Whether a send waits until every byte of it was received: slow peers become visible.
        backlog: How many connections may wait to be accepted.
    """

    def __init__(self, address: AnyAddress = _LOCAL, *, lockstep: bool = False, backlog: int = 128) -> None:
        self._address = address
        self.lockstep = lockstep
        self._offer, self._wait = trio.open_memory_channel[Connection](backlog)
        self._made = 0

    @property
    def address(self) -> AnyAddress:
        """Where it pretends to listen."""
        return self._address

    @property
    def closed(self) -> bool:
        """Whether nothing is accepted any more."""
        return self._offer.statistics().open_receive_channels == 0

    def connect(
        self,
        *,
        original_dst: AnyAddress | None = None,
        tls: Tls | None = None,
        protocol: Protocol | None = None,
    ) -> trio.abc.HalfCloseableStream:
        """Connect, and return the client's end. Each client has a port of its own, counted from 49152.

        Raises:
            ConnectionRefusedError: if nothing listens any more, or the backlog is full.
        """
        client, connection = memory_connection(
            peer=Address("127.0.0.1", _FIRST_PORT + self._made),
            local=self._address,
            original_dst=original_dst,
            tls=tls,
            protocol=protocol,
            lockstep=self.lockstep,
        )
        try:
            self._offer.send_nowait(connection)
        except (trio.BrokenResourceError, trio.WouldBlock):
            raise ConnectionRefusedError(f"nobody accepts on {self._address}") from None
        self._made += 1
        return client

    async def accept(self) -> Connection:
        """Wait for the next connection.

        Raises:
            trio.ClosedResourceError: once it was closed.
        """
        return await self._wait.receive()

    def accept_nowait(self) -> Connection:
        """Return a connection that waits.

        Raises:
            trio.WouldBlock: if none does.
            trio.ClosedResourceError: once it was closed.
        """
        return self._wait.receive_nowait()

    async def aclose(self) -> None:
        """Stop listening, and close the connections that nobody accepted, as a kernel does."""
        while True:
            try:
                connection = self._wait.receive_nowait()
            except (trio.WouldBlock, trio.ClosedResourceError):
                break
            await trio.aclose_forcefully(connection.stream)
        await self._wait.aclose()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self._offer.statistics().current_buffer_used} waiting"
        return f"<MemoryListener {self._address}, {state}>"


@dataclass(frozen=True, slots=True)
class MemoryConnect(Stack[Dial]):
    """Connects to a memory listener, in the place of ``Connect``.

    Raises:
        ConnectFailed: from the service, if the listener is closed or its backlog is full.
    """

    listener: MemoryListener

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Dial]]:
        """Yield the service; it holds nothing."""
        listener = self.listener

        async def service(dial: Dial) -> None:
            try:
                stream = listener.connect(protocol=dial.target.protocol)
            except ConnectionRefusedError as error:
                raise ConnectFailed(
                    str(error), layer="MemoryConnect", endpoint=str(dial.target.address or listener.address)
                ) from error
            try:
                await dial.use(stream)
            finally:
                with trio.CancelScope(shield=True, deadline=-float("inf")):
                    await trio.aclose_forcefully(stream)

        yield service
