"""The authority's server: Linkerd's ``identity.Identity/Certify``, over TLS and on Unix sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from linkerd_proxy.core.contain import record_failure
from linkerd_proxy.core.stack import Layer, Service, Stack
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.errors import Denied, InvalidConfiguration, ProxyError
from linkerd_proxy.grpc.identity_api import CERTIFY, CertifyRequest, CertifyResponse
from linkerd_proxy.grpc.server import Grpc, unary
from linkerd_proxy.grpc.serving import ServerCall
from linkerd_proxy.grpc.status import GrpcError
from linkerd_proxy.grpc.times import timestamp
from linkerd_proxy.grpc_status import GrpcStatus
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.io.unix_peer import unix_peer
from linkerd_proxy.mesh.authority_users import Users
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.policy.ratelimit import RateLimit
from linkerd_proxy.tls.audit import record_issue
from linkerd_proxy.tls.authority import LEAF_LIFETIME, Chain
from linkerd_proxy.tls.issued import Issued
from linkerd_proxy.tls.store import to_der
from linkerd_proxy.tls.stored import StoredAuthority
from linkerd_proxy.tls.terminate import Terminate
from linkerd_proxy.tls.tokens import RefusedToken, Tokens

__all__ = ["Certifier", "authority_stacks"]

_MAX_MESSAGE = 16384  # bytes: a name, a token and a signing request (own figure)
_TOTAL = 200.0  # requests a second; signing and all around it take about 2 ms (own figure)


class Certifier:
    """Answers ``Certify``: finds out whether the caller is whom it asks a certificate for, and signs.

    What proves it is, in this order: the certificate of the connection, if it names the same identity (a renewal); a
    one-time token made for that name; on a Unix socket, the user at the other end.

    Args:
        authority: Who signs.
        own: The server's own name, which nobody else gets.
        users: Who may have what on a Unix socket.
        lifetime: Seconds that certificates are valid.
    """

    def __init__(
        self, authority: StoredAuthority, *, own: str, users: Users | None = None, lifetime: float = LEAF_LIFETIME
    ) -> None:
        self.authority: StoredAuthority = authority
        self.tokens: Tokens = Tokens(authority.directory / "tokens", now=authority.now)
        self.own: str = own
        self.lifetime: float = lifetime
        self._users = users

    async def certify(
        self, message: CertifyRequest, call: ServerCall[CertifyRequest, CertifyResponse]
    ) -> CertifyResponse:
        """Answer one call.

        Raises:
            GrpcError: ``INVALID_ARGUMENT`` for a request that nobody could get signed, ``PERMISSION_DENIED`` for a
                caller that is not shown to be whom he says, ``UNAVAILABLE`` if the authority can't issue now.

        A token is used up only when everything else was right, just before signing.
        """
        try:
            reply = self._answer(message, call.connection)
        except GrpcError as error:
            reason = error.status.name.lower()
            _refused(reason)
            # On one line, held back where there are too many: what a caller chose is escaped there.
            told = f"no certificate for {message.identity[:300]}: {error.message}"
            record_failure(Denied(told, layer="authority", remedy="the caller was told the same"), call.connection)
            raise
        return reply

    def _answer(self, message: CertifyRequest, connection: Connection) -> CertifyResponse:
        name, token = message.identity, message.token.decode(errors="replace").strip()
        try:
            if self.authority.current().check_name(name) == self.own:
                raise _denied(f"{name} is the authority itself: ask for another name")
            how = self._proof(name, token, connection)
            return self._signed(name, token, how, message.certificate_signing_request)
        except InvalidConfiguration as error:
            raise GrpcError(GrpcStatus.INVALID_ARGUMENT, str(error)) from None
        except RefusedToken as error:
            raise _denied(str(error)) from None
        except ProxyError as error:
            raise GrpcError(GrpcStatus.UNAVAILABLE, str(error)) from error

    def _proof(self, name: str, token: str, connection: Connection) -> str:
        """Return what shows that the caller is whom it asks a certificate for."""
        tls = connection.tls
        proved = None if tls is None else tls.peer_identity
        if proved == name:
            return "certificate"
        peer = unix_peer(connection.stream)
        if peer is not None and self._users is not None and name in self._users.names_of(peer.uid):
            return f"uid {peer.uid}"  # before a token, which is then not used up, or was long ago
        if token:
            self.tokens.check(token, name)
            return "token"
        if peer is not None:
            raise _denied(
                f"user {peer.uid} may not be {name}: allow it with --allow {peer.uid}={name}, or send a token"
            )
        if proved is not None:
            raise _denied(f"the connection's certificate is for {proved}: ask for that name, or send a token")
        raise _denied("nothing shows who asks: send a token of 'linkerd-proxy authority token', or a valid certificate")

    def _signed(self, name: str, token: str, how: str, request: bytes) -> CertifyResponse:
        from linkerd_proxy.tls.csr import RefusedRequest, requested_key

        try:
            requested_key(request, name)  # before the token: a mistake in the request must not cost it
        except RefusedRequest as error:
            raise GrpcError(GrpcStatus.INVALID_ARGUMENT, str(error)) from None
        self.authority.current().check_valid()
        if how == "token":
            self.tokens.use(token, name)
        chain = self.authority.sign(name, request, lifetime=self.lifetime)
        leaf = chain[0]
        try:
            record_issue(self.authority.directory, name, leaf, how=how, now=self.authority.now())
        except InvalidConfiguration as error:
            raise GrpcError(GrpcStatus.UNAVAILABLE, str(error)) from None
        _issued(how.partition(" ")[0])
        return _reply(chain)


def _reply(chain: Chain) -> CertifyResponse:
    leaf, *above = to_der(chain)
    return CertifyResponse(
        leaf_certificate=leaf,
        intermediate_certificates=above,
        valid_until=timestamp(chain[0].not_valid_after_utc),
    )


def _denied(problem: str) -> GrpcError:
    return GrpcError(GrpcStatus.PERMISSION_DENIED, problem)


def _issued(how: str) -> None:
    registry = current_registry()
    registry.counter("authority_issued_total", "Certificates issued, by what proved who asked", how=how).value += 1


def _refused(reason: str) -> None:
    registry = current_registry()
    registry.counter("authority_refused_total", "Certificates refused, by gRPC status", reason=reason).value += 1


@dataclass(frozen=True, slots=True, repr=False)
class _OnlyTls(Layer[Connection, Connection]):
    """Closes connections that TLS does not protect, before a token is read from them."""

    @asynccontextmanager
    async def open(self, inner: Service[Connection]) -> AsyncIterator[Service[Connection]]:
        """Yield the live service."""

        async def service(connection: Connection) -> None:
            if connection.tls is None:
                raise Denied("the client does not speak TLS", layer="authority", remedy="connect to it with TLS")
            await inner(connection)

        yield service

    def __repr__(self) -> str:
        return "OnlyTls()"


def authority_stacks(certifier: Certifier, *, rate: float = 20.0) -> tuple[Stack[Connection], Stack[Connection]]:
    """Return the stacks that serve an authority: one for TCP, with TLS, and one for Unix sockets, without.

    Args:
        certifier: Who answers.
        rate: Requests a second of each identity, and from each address (or user, on a Unix socket) of callers that have
            none yet: one that asks without end keeps no other from its first certificate.
    """
    identity = Issued(certifier.authority, certifier.own, certifier.lifetime)
    answers: Stack[Exchange] = RateLimit(total=max(_TOTAL, rate), identity=rate, address=rate) | Grpc(
        unary(CERTIFY, certifier.certify), max_message=_MAX_MESSAGE
    )
    served = Http() | Metrics() | Rescue() | answers
    return Terminate(identity, server_names=("*",), alpn=("h2",)) | _OnlyTls() | served, served
