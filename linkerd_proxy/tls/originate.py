"""The client side of TLS: connections to upstreams that prove who they are."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import trio

from linkerd_proxy.address import Address
from linkerd_proxy.core.ready import announce_ready
from linkerd_proxy.core.shared import shared
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Dial, Target
from linkerd_proxy.errors import InvalidConfiguration, UpstreamHandshakeFailed
from linkerd_proxy.names import check_identity, is_dns_like, problem_of
from linkerd_proxy.tls.engine import Engine
from linkerd_proxy.tls.handshake import HandshakeMetrics, shake
from linkerd_proxy.tls.identity import Identity
from linkerd_proxy.tls.refusal import Refused
from linkerd_proxy.tls.stream import TlsStream, take_leave

if TYPE_CHECKING:
    from OpenSSL import SSL

    from linkerd_proxy.tls.context import Contexts

__all__ = ["Originate"]

_ALPN: dict[str | None, tuple[str, ...]] = {"http/1": ("http/1.1",), "http/2": ("h2",)}

Make: TypeAlias = Callable[[Target], Engine | None]
"""Makes the engine for a target, or says that it gets none."""


@dataclass(frozen=True, slots=True, repr=False)
class Originate(Layer[Dial, Dial]):
    """Encrypts the connections that are dialled, after the upstream has proved who it is.

    It speaks one of three kinds of TLS; give one of ``identity``, ``host`` and ``context``.

    Args:
        identity: What the proxy proves to its mesh, and whose authorities certificates must come from. The upstream
            must prove exactly the identity that the dial's target names; targets without one are dialled in the clear.
            The SNI is the target's ``server_name``, or else that identity where it is DNS-like.
        peer: The identity that every upstream must prove, whatever the target says.
        host: For the ordinary web: the host name that the upstream's certificate must hold; ``""`` takes it from the
            target, its ``server_name`` or else its address. TLS 1.2 or later. Needs the extra ``egress``.
        roots: A file of PEM certificates to trust for ``host``; by default the system's.
        context: A context of one's own, ``ssl.SSLContext`` or ``OpenSSL.SSL.Context``; it alone says what is
            trusted. An ``ssl.SSLContext`` checks the host name itself, which is found as for ``host``.
        alpn: Protocols to offer; by default none to the mesh, and to a ``host`` the one that the target says.
        timeout: Seconds for the handshake (own figure: Linkerd counts it to its connect timeout of 1).

    Raises:
        IdentityMismatch: if the upstream proved another identity. Nothing of the work was sent.
        UpstreamHandshakeFailed: with a ``reason``, if there was no agreement, or not in time. Nothing was sent.
        NoCredentials: if the proxy has no certificate yet.

    It is ready (``core.ready``) while the identity has a valid certificate: a balancer waits for that.
    """

    identity: Identity | None = None
    peer: str | None = None
    host: str | None = None
    roots: str | None = None
    context: ssl.SSLContext | SSL.Context | None = None
    alpn: tuple[str, ...] | None = None
    timeout: float = 10.0

    def __post_init__(self) -> None:
        if self.identity is not None:
            if self.host is not None or self.context is not None:
                raise InvalidConfiguration("Originate(identity) speaks to the mesh: leave out host and context")
        elif self.host is None and self.context is None:
            raise InvalidConfiguration("Originate needs whom to trust: give it an identity, host=... or context=...")
        if self.peer is not None:
            if self.identity is None:
                raise InvalidConfiguration(f"Originate(peer={self.peer!r}) needs an identity to prove to it")
            check_identity(self.peer, f"Originate(peer={self.peer!r})")
        if self.roots is not None and (self.host is None or self.context is not None):
            raise InvalidConfiguration(f"Originate(roots={self.roots!r}) is for host=... without a context")
        if self.timeout <= 0:
            raise InvalidConfiguration(f"Originate(timeout={self.timeout!r}): give more than 0 seconds")

    @asynccontextmanager
    async def open(self, inner: Service[Dial]) -> AsyncIterator[Service[Dial]]:
        """Open the identity and yield the live service."""
        if self.identity is not None:
            from linkerd_proxy.tls.context import Contexts

            async with shared(self.identity) as live:
                announce_ready(live.is_ready)
                contexts = Contexts(live, "client")
                yield _Originator(self, self._of_mesh(contexts), inner).serve
        else:
            yield _Originator(self, self._of_web() if self.context is None else self._of_context(), inner).serve

    def _of_mesh(self, contexts: Contexts) -> Make:
        from linkerd_proxy.tls.openssl import OpenSSLEngine
        from linkerd_proxy.tls.verify import Verification

        def make(target: Target) -> Engine | None:
            name = self.peer or target.identity
            if name is None:
                return None
            if problem := problem_of(name):
                raise Refused("identity", f"nobody can prove {name!r}: {problem}")
            return OpenSSLEngine(
                contexts.current(),
                server=False,
                server_name=target.server_name or (name if is_dns_like(name) else None),
                verification=Verification(name),
                alpn=self.alpn or (),
            )

        return make

    def _of_web(self) -> Make:
        from linkerd_proxy.tls.context import egress_context
        from linkerd_proxy.tls.egress import HostEngine

        context = egress_context(self.roots)

        def make(target: Target) -> Engine:
            return HostEngine(context, self._host_of(target), self._offered(target))

        return make

    def _of_context(self) -> Make:
        context = self.context
        if isinstance(context, ssl.SSLContext):
            from linkerd_proxy.tls.stdlib import StdlibEngine

            return lambda target: StdlibEngine(context, server=False, server_name=self._host_of(target))
        from linkerd_proxy.tls.openssl import OpenSSLEngine

        assert context is not None
        return lambda target: OpenSSLEngine(
            context, server=False, server_name=self._host_of(target), alpn=self.alpn or ()
        )

    def _host_of(self, target: Target) -> str:
        from linkerd_proxy.tls.host import expected_host

        host = self.host or target.server_name
        if not host and isinstance(target.address, Address):
            host = target.address.host
        if not host:
            raise Refused("bad_host", "nothing says which host to expect: give Originate(host=...)")
        return expected_host(host)

    def _offered(self, target: Target) -> tuple[str, ...]:
        return _ALPN.get(target.protocol, ()) if self.alpn is None else self.alpn


class _Originator:
    """One opened Originate."""

    __slots__ = ("_inner", "_make", "_metrics", "_timeout")

    def __init__(self, config: Originate, make: Make, inner: Service[Dial]) -> None:
        self._timeout = config.timeout
        self._make = make
        self._inner = inner
        self._metrics = HandshakeMetrics("client")

    async def serve(self, dial: Dial) -> None:
        """Dial, and encrypt what comes of it if it is to be."""
        target = dial.target
        try:
            engine = self._make(target)  # before anything is dialled: what can't be proved needs no connection
        except Refused as refused:
            raise self._failure(refused, target) from refused.__cause__

        if engine is None:
            await self._inner(dial)
            return

        async def use(stream: trio.abc.HalfCloseableStream) -> None:
            inside = await self._begin(stream, engine, target)
            await dial.use(inside)
            await take_leave(inside)  # what failed was not whole: then whoever dialled aborts the connection

        await self._inner(replace(dial, use=use))

    async def _begin(self, stream: trio.abc.HalfCloseableStream, engine: Engine, target: Target) -> TlsStream:
        self._metrics.total.value += 1
        start = trio.current_time()
        with trio.CancelScope(deadline=start + self._timeout):
            try:
                inside = await shake(stream, engine)
            except Refused as refused:
                raise self._failure(refused, target) from refused.__cause__
            self._metrics.seconds.record(trio.current_time() - start)
            return inside
        raise self._failure(Refused("timeout"), target, waited=self._timeout)

    def _failure(self, refused: Refused, target: Target, waited: float | None = None) -> UpstreamHandshakeFailed:
        self._metrics.failed(refused)
        endpoint = str(target.address) if target.address is not None else ""
        error = refused.as_error("client", layer="Originate", endpoint=endpoint, waited=waited)
        assert isinstance(error, UpstreamHandshakeFailed)
        return error
