"""Forward a connection's bytes, whatever they mean."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from linkerd_proxy.address import AnyAddress, parse_target
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Connection, Dial, Target
from linkerd_proxy.errors import UpstreamReset
from linkerd_proxy.io.relay import HALF_OPEN, Relayed, relay
from linkerd_proxy.io.streams import abort

__all__ = ["Forward"]


@dataclass(frozen=True, slots=True, repr=False)
class Forward(Layer[Connection, Dial]):
    """Dials once for each connection and copies both ways until both directions have ended, each end passed on.

    A reset on one side becomes a reset on the other, so that a truncated transfer never looks whole.

    Args:
        to: Where to; by default where the client was going (``connection.original_dst``), or else wherever an inner
            ``Connect("host:port")`` says.
        half_open: Seconds that a connection with one direction ended may go on without a byte.

    Raises:
        UpstreamReset: if the upstream broke the connection. If the client did, the work just ends: nobody wants it.
        IdleTimeout: if it was half open and idle for too long.
    """

    to: str | AnyAddress | None = None
    half_open: float = HALF_OPEN

    def __post_init__(self) -> None:
        if isinstance(self.to, str):
            parse_target(self.to)  # a bad address is told where it is written

    async def serve(self, work: Connection, inner: Service[Dial]) -> None:
        """Dial and copy until both directions have ended."""
        target = parse_target(self.to) if self.to is not None else None
        dial = Dial(
            Target(target or work.original_dst, protocol=work.protocol),
            _Use(work, self.half_open),
            client=work.peer,
            destination=work.original_dst or work.local,
        )
        whole = False
        try:
            await inner(dial)
            whole = True
        finally:
            if not whole:  # without an upstream the client must not take our closing for the upstream's
                with trio.CancelScope(shield=True):
                    await abort(work.stream)


class _Use:
    """Copies between a connection and the stream that was dialled for it."""

    __slots__ = ("connection", "half_open")

    def __init__(self, connection: Connection, half_open: float) -> None:
        self.connection = connection
        self.half_open = half_open

    async def __call__(self, stream: trio.abc.HalfCloseableStream) -> None:
        progress = Relayed()
        try:
            await relay(self.connection.stream, stream, half_open=self.half_open, progress=progress)
        except trio.BrokenResourceError as error:
            if progress.broken == "second":
                raise UpstreamReset(str(error), layer="Forward") from error
