"""Connect to the upstream: the leaf of every stack that leaves the process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from linkerd_proxy.address import AnyAddress, parse_target
from linkerd_proxy.core.stack import Service, Stack
from linkerd_proxy.core.work import Dial
from linkerd_proxy.errors import ConnectFailed, Denied, InvalidConfiguration, LoopDetected, NoTarget, ProxyError
from linkerd_proxy.io.dial import dial as connect_to
from linkerd_proxy.io.loops import is_local, would_loop
from linkerd_proxy.io.options import TcpOptions
from linkerd_proxy.io.streams import SocketStream

__all__ = ["Connect"]


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Connect(Stack[Dial]):
    """Connects, calls ``dial.use`` with the stream, and closes it; what ``use`` raises aborts it (RST).

    Args:
        addresses: Where to, as :func:`~linkerd_proxy.address.parse_target` reads them; they win over the dial's own
            target. Several are taken in turn, and one that can't be reached is passed over for the next.
        timeout: Seconds for each address (Linkerd: 1).
        source: The local IP address to connect from.
        options: For the sockets.
        elsewhere: Whether nothing on this host may be reached, whatever a name resolves to: for a target that a peer
            chooses. Refused are loopback, link-local and unspecified addresses, and this host's own.
        remedy: What to do where nobody listens, for whoever knows better than that the upstream should.

    Serving raises:
        NoTarget: if neither says where to.
        ConnectFailed, ConnectTimeout: if no address could be reached; the last one's error, the others as notes.
        LoopDetected: if the target is the listener that the work came through.
        Denied: if it is on this host, and that was not to be.
    """

    addresses: tuple[AnyAddress, ...]
    timeout: float
    source: str | None
    options: TcpOptions
    elsewhere: bool
    remedy: str

    def __init__(
        self,
        *addresses: str | AnyAddress,
        timeout: float = 1.0,
        source: str | None = None,
        options: TcpOptions = TcpOptions(),  # noqa: B008  # frozen
        elsewhere: bool = False,
        remedy: str = "",
    ) -> None:
        if not timeout > 0:
            raise InvalidConfiguration(f"Connect(timeout={timeout!r}) never connects: give seconds above 0")
        parsed = tuple(map(parse_target, addresses))
        object.__setattr__(self, "addresses", parsed)
        object.__setattr__(self, "timeout", timeout)
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "elsewhere", elsewhere)
        object.__setattr__(self, "remedy", remedy)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Dial]]:
        """Yield the service that connects."""
        turn = 0
        count = len(self.addresses)

        async def connect(dial: Dial) -> None:
            nonlocal turn
            addresses = self.addresses
            if count > 1:
                addresses = addresses[turn:] + addresses[:turn]
                turn = (turn + 1) % count
            elif not count:
                if dial.target.address is None:
                    raise NoTarget("nothing says where to connect", layer="Connect")
                addresses = (dial.target.address,)
            stream = await self._reach(addresses)
            whole = False
            try:
                await dial.use(stream)
                whole = True
            finally:
                if whole:
                    stream.close()
                else:
                    stream.abort()

        yield connect

    async def _reach(self, addresses: tuple[AnyAddress, ...]) -> SocketStream:
        failures: list[ConnectFailed] = []
        for address in addresses:
            try:
                return await connect_to(
                    address,
                    timeout=self.timeout,
                    source=self.source,
                    options=self.options,
                    refuse=_refuse_all_here if self.elsewhere else _refuse_loops,
                )
            except ConnectFailed as error:
                failures.append(error)
        failure = failures.pop()
        if self.remedy and isinstance(failure.__cause__, ConnectionRefusedError):
            failure.hint = self.remedy
        for earlier in failures:
            failure.add_note(f"before that, {earlier.endpoint}: {earlier.problem}")
        raise failure

    def __repr__(self) -> str:
        parts = [repr(str(address)) for address in self.addresses]
        if self.timeout != 1.0:
            parts.append(f"timeout={self.timeout:g}")
        if self.source is not None:
            parts.append(f"source={self.source!r}")
        if self.options != TcpOptions():
            parts.append(f"options={self.options!r}")
        if self.elsewhere:
            parts.append("elsewhere=True")
        return f"Connect({', '.join(parts)})"


def _refuse_loops(address: AnyAddress) -> ProxyError | None:
    if would_loop(address):
        return LoopDetected("the target is a listener of this proxy", endpoint=str(address))
    return None


def _refuse_all_here(address: AnyAddress) -> ProxyError | None:
    if is_local(address):
        return Denied(
            "the target is on this host, or known to its neighbours alone",
            layer="Connect",
            endpoint=str(address),
            remedy="correct what the name resolves to; Connect(elsewhere=False), --gateway-local, local: true allow it",
        )
    return _refuse_loops(address)
