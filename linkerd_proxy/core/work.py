"""The three kinds of work that flow through a proxy: ``Connection -> Exchange -> Dial``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

import trio

from linkerd_proxy.address import Address, AnyAddress
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.message import Request, Response

__all__ = ["Connection", "Dial", "Exchange", "Protocol", "Respond", "Target", "Tls"]

Protocol: TypeAlias = Literal["http/1", "http/2", "opaque"]
"""What a connection was recognised to speak."""

Respond: TypeAlias = Callable[[Response], Awaitable[None]]

_NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Tls:
    """What a TLS handshake established about the peer.

    Args:
        peer_identity: The one name in the peer's verified certificate, or None.
        server_name: The name that the client asked for (SNI), or None.
        alpn: The application protocol that both sides agreed on, or None.
    """

    peer_identity: str | None = None
    server_name: str | None = None
    alpn: str | None = None


@dataclass(slots=True, eq=False)
class Connection:
    """Somebody connected.

    The one who accepted it closes ``stream`` when the service returns or raises; layers need not.
    """

    stream: trio.abc.HalfCloseableStream
    peer: AnyAddress
    local: AnyAddress
    original_dst: AnyAddress | None = None
    """Where the client meant to go, if traffic was redirected to the proxy or a PROXY header told."""
    tls: Tls | None = None
    """What the handshake established; None where nothing was decrypted here."""
    sni: str | None = None
    """The name asked for in TLS that passes through as it is; None where there is none, or where ``tls`` tells."""
    protocol: Protocol | None = None
    """None until a layer has found out."""
    drain: Drain = field(default_factory=Drain)
    target_name: str | None = None
    """The name by which a peer's proxy asked for its target: then we are its gateway, and ``original_dst`` is that
    name. None for what is meant for the application here."""

    def with_stream(self, stream: trio.abc.HalfCloseableStream, *, protocol: Protocol | None = None) -> Connection:
        """Return a copy that reads and writes through another stream, and perhaps speaks a known protocol."""
        # Every connection passes here, some of them several times: replace() takes five times as long.
        return Connection(
            stream,
            self.peer,
            self.local,
            self.original_dst,
            self.tls,
            self.sni,
            protocol or self.protocol,
            self.drain,
            self.target_name,
        )


class Exchange:
    """Somebody asked.

    ``await respond(response)`` sends the response and returns when its last byte has left (for a tunnel: when both
    directions have ended). It raises nothing of its own but ``trio.Cancelled``, which means that the client no longer
    wants the answer; what ``response.body`` raises passes through unchanged, after the message was visibly aborted
    towards the client. Informational responses (1xx but 101) may come first, at most 16.

    A layer that watches or changes the answer passes on ``exchange.answering(its_own_respond)``. One that keeps
    something of each exchange may pass that on instead: a subclass whose ``respond`` is a method.
    """

    __slots__ = ("connection", "request", "respond")

    def __init__(self, request: Request, respond: Respond, connection: Connection) -> None:
        self.request: Request = request
        self.respond: Respond = respond
        self.connection: Connection = connection

    def answering(self, respond: Respond) -> Exchange:
        """Return this exchange with another way to answer."""
        return Exchange(self.request, respond, self.connection)

    def asking(self, request: Request) -> Exchange:
        """Return this exchange with another request."""
        return Exchange(request, self.respond, self.connection)

    def __repr__(self) -> str:
        return f"<Exchange {self.request!r} from {self.connection.peer}>"


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a connection shall reach.

    Args:
        address: Where to connect; None leaves it to an inner layer (``Connect("host:port")``).
        identity: The name that the peer must prove, or None.
        server_name: The SNI to send, or None.
        protocol: What will be spoken on the connection.
        labels: For metrics; bounded by whoever configured them, never chosen by a peer.
        tagged_port: The port on which the target's own proxy reads transport headers, or None.
        beyond: What the target, a gateway, shall reach for us.
    """

    address: AnyAddress | None = None
    identity: str | None = None
    server_name: str | None = None
    protocol: Protocol | None = None
    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS, hash=False)
    tagged_port: int | None = None
    beyond: Address | None = None


@dataclass(slots=True, eq=False)
class Dial:
    """Somebody wants a connection: ``use`` is called with it once, and it is closed when ``use`` returns.

    Serving a dial returns when ``use`` has returned and the connection is closed, and raises
    :exc:`~linkerd_proxy.errors.ConnectFailed` if there was none. What ``use`` raises passes through.
    """

    target: Target
    use: Callable[[trio.abc.HalfCloseableStream], Awaitable[None]]
    client: AnyAddress | None = None
    """On whose behalf, where it is one client's connection: for telling the upstream (PROXY protocol)."""
    destination: AnyAddress | None = None
    """Where that client connected to."""
