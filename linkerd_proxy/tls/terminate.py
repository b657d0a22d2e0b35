"""The server side of TLS: decrypt what is for this proxy, and leave alone what is not."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from linkerd_proxy.core.ready import announce_ready
from linkerd_proxy.core.shared import shared
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Connection, Tls
from linkerd_proxy.errors import HandshakeFailed, InvalidConfiguration
from linkerd_proxy.io.client_hello import ClientHello
from linkerd_proxy.io.hear import Heard, hear
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.names import is_dns_like
from linkerd_proxy.tls.crowd import Crowd
from linkerd_proxy.tls.engine import Engine
from linkerd_proxy.tls.handshake import HandshakeMetrics, shake
from linkerd_proxy.tls.identity import Identity, LiveIdentity
from linkerd_proxy.tls.refusal import Refused
from linkerd_proxy.tls.stream import TlsStream, take_leave

if TYPE_CHECKING:
    from OpenSSL import SSL

    from linkerd_proxy.tls.context import Contexts

__all__ = ["Terminate"]

MESH_ALPN = ("transport.l5d.io/v1",)
"""What mesh links agree on when a transport header follows."""


@dataclass(frozen=True, slots=True, repr=False)
class Terminate(Layer[Connection, Connection]):
    """Decrypts connections that ask for this proxy, and passes on all others as they are.

    What the layers inside see:

    ====================  ========================================================================================
    TLS for this proxy    ``tls`` tells the peer's identity, SNI and ALPN; ``protocol`` is open again
    TLS for others        ``tls`` is None, ``sni`` the name asked for, ``protocol`` is ``opaque``, all bytes there
    no ClientHello        ``tls`` and ``sni`` are None, ``protocol`` is as it was, all bytes there
    no bytes at all       the same, unless an identity is required: then nothing is served, and nothing logged
    ====================  ========================================================================================

    Args:
        identity: What the proxy proves, and whose authorities clients' certificates must come from. TLS 1.3 only,
            nothing is resumed, and a client certificate is asked for: if one comes it must be good.
        server_names: The SNIs that are for this proxy: ``"*"`` is every ClientHello, ``""`` one without SNI. By default
            the identity's own name; for a SPIFFE ID, which can't be an SNI, and for a ``context``, every ClientHello.
        require_identity: Whether clients without a certificate are refused, and connections that are not TLS for this
            proxy too.
        alpn: Protocols to choose from, in this order; a client that offers none of them is served without.
        timeout: Seconds for a connection's first bytes and the handshake together (Linkerd: 10).
        max_handshakes: How many handshakes may be under way. Newcomers never wait for others: above that number,
            those that have lasted for a second give way to them, oldest first (and at ten times as many, the oldest at
            once), so that any number of half-open ones leaves a good client served.
        context: In the place of ``identity``, a context of one's own: ``ssl.SSLContext`` or ``OpenSSL.SSL.Context``.
            It alone decides about versions, certificates and ALPN; ``tls.peer_identity`` stays None.

    Raises:
        HandshakeFailed: with a ``reason``, if the client was refused or did not finish in time.
        NoCredentials: if there is no certificate yet.

    It is ready (``core.ready``) while the identity has a valid certificate.

    A server that speaks first is found by ``Detect(tls=Terminate(...))``; alone, this waits for the client.
    """

    identity: Identity | None = None
    server_names: tuple[str, ...] | None = None
    require_identity: bool = False
    alpn: tuple[str, ...] = MESH_ALPN
    timeout: float = 10.0
    max_handshakes: int = 100
    context: ssl.SSLContext | SSL.Context | None = None

    def __post_init__(self) -> None:
        if (self.identity is None) == (self.context is None):
            raise InvalidConfiguration("Terminate needs something to prove: give it an identity, or else context=...")
        if self.context is not None and self.require_identity:
            raise InvalidConfiguration(
                "Terminate(context=..., require_identity=True): a context of your own decides that; set its verify mode"
            )
        if self.timeout <= 0:
            raise InvalidConfiguration(f"Terminate(timeout={self.timeout!r}): give more than 0 seconds")
        if self.max_handshakes < 1:
            raise InvalidConfiguration(f"Terminate(max_handshakes={self.max_handshakes!r}): give at least 1")

    @asynccontextmanager
    async def open(self, inner: Service[Connection]) -> AsyncIterator[Service[Connection]]:
        """Open the identity and yield the live service."""
        if self.identity is not None:
            from linkerd_proxy.tls.context import Contexts

            async with shared(self.identity) as live:
                announce_ready(live.is_ready)
                contexts = Contexts(live, "server", alpn=self.alpn, require_identity=self.require_identity)
                yield _Terminator(self, live, lambda: _mesh_engine(contexts), inner).serve
        else:
            yield _Terminator(self, None, _engines_of(self.context), inner).serve


def _mesh_engine(contexts: Contexts) -> Engine:
    from linkerd_proxy.tls.openssl import OpenSSLEngine
    from linkerd_proxy.tls.verify import Verification

    return OpenSSLEngine(contexts.current(), server=True, verification=Verification())


def _engines_of(context: ssl.SSLContext | SSL.Context | None) -> Callable[[], Engine]:
    if isinstance(context, ssl.SSLContext):
        from linkerd_proxy.tls.stdlib import StdlibEngine

        own = context
        return lambda: StdlibEngine(own, server=True)
    from linkerd_proxy.tls.openssl import OpenSSLEngine

    assert context is not None
    theirs = context
    return lambda: OpenSSLEngine(theirs, server=True)


def _named(tls: Tls, hello: ClientHello | None) -> Tls:
    """Return what was established, with the SNI also where the library does not tell it: ``ssl`` has no server's."""
    return tls if tls.server_name or hello is None else replace(tls, server_name=hello.server_name)


class _Terminator:
    """One opened Terminate."""

    __slots__ = ("_config", "_crowd", "_identity", "_inner", "_make", "_metrics", "_passed")

    def __init__(
        self,
        config: Terminate,
        identity: LiveIdentity | None,
        make: Callable[[], Engine],
        inner: Service[Connection],
    ) -> None:
        registry = current_registry()
        self._config = config
        self._identity = identity
        self._make = make
        self._inner = inner
        self._crowd = Crowd(config.max_handshakes)
        self._metrics = HandshakeMetrics("server")
        self._passed = {
            why: registry.counter("tls_passed_total", "Connections that were not decrypted, by why", why=why)
            for why in ("foreign_sni", "plaintext", "eof")
        }

    async def serve(self, connection: Connection) -> None:
        """Serve one connection."""
        heard, stream = await self._begin(connection)
        if stream is not None:
            inside = connection.with_stream(stream)
            inside.tls, inside.protocol = _named(stream.tls, heard.hello), None
            await self._inner(inside)
            await take_leave(stream)  # not after a failure: what the client got must not look whole
            return
        hello = heard.hello
        if not heard.data:  # a probe or a scan: nobody to serve, and no failure either
            self._passed["eof"].value += 1
            if self._config.require_identity:
                return
            passed = connection.with_stream(heard.put_back())
        elif hello is not None:
            self._passed["foreign_sni"].value += 1
            passed = replace(connection, stream=heard.put_back(), sni=hello.server_name, protocol="opaque")
        else:
            self._passed["plaintext"].value += 1
            passed = connection.with_stream(heard.put_back())
        if self._config.require_identity:
            asked = "plaintext" if hello is None else f"TLS for {hello.server_name or 'nobody in particular'}"
            raise self._failure(Refused("no_certificate", f"it sent {asked}"))
        await self._inner(passed)

    async def _begin(self, connection: Connection) -> tuple[Heard, TlsStream | None]:
        """Hear whom the connection is for, and finish the handshake if that is this proxy."""
        start = trio.current_time()
        crowd, welcome = self._crowd, True
        with trio.CancelScope(deadline=start + self._config.timeout) as scope:
            try:
                heard = await hear(connection.stream)
                if heard.hello is None or not self._is_for_us(heard.hello):
                    return heard, None
                self._metrics.total.value += 1
                crowd.join(scope, trio.current_time())
                try:
                    stream = await shake(heard.stream, self._make(), initial=heard.data)
                finally:
                    welcome = crowd.leave(scope)
                self._metrics.seconds.record(trio.current_time() - start)
                return heard, stream
            except Refused as refused:
                raise self._failure(refused) from refused.__cause__
            except trio.BrokenResourceError as error:
                raise self._failure(Refused("reset", str(error))) from error
        if not welcome:
            raise self._failure(Refused("crowded"))
        raise self._failure(Refused("timeout"), waited=self._config.timeout)

    def _is_for_us(self, hello: ClientHello) -> bool:
        names = self._config.server_names
        if names is None:
            own = None if self._identity is None else self._identity.name
            return own is None or hello.server_name == own or not is_dns_like(own)
        return "*" in names or (hello.server_name or "") in names

    def _failure(self, refused: Refused, waited: float | None = None) -> HandshakeFailed:
        self._metrics.failed(refused)
        error = refused.as_error("server", layer="Terminate", waited=waited)
        assert isinstance(error, HandshakeFailed)
        return error
