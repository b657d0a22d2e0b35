"""TLS by OpenSSL, through pyOpenSSL's connections on memory BIOs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from OpenSSL import SSL

from linkerd_proxy.core.work import Tls
from linkerd_proxy.tls.direct import Direct, is_possible
from linkerd_proxy.tls.public import Public
from linkerd_proxy.tls.reasons import refusal_of
from linkerd_proxy.tls.refusal import Refused
from linkerd_proxy.tls.verify import Verification

__all__ = ["OpenSSLEngine"]

if TYPE_CHECKING:
    Moving = Direct
else:
    Moving = Direct if is_possible() else Public


class OpenSSLEngine(Moving):
    """One side of a TLS connection.

    Args:
        context: With certificate, trust and protocol versions.
        server: Which side.
        server_name: The SNI to send, for a client.
        verification: What the peer's certificate must prove; its chain is checked by the context's rules.
        alpn: What to offer, for a client; a server's context chooses.
    """

    __slots__ = ("_server", "unhurried", "verification")

    def __init__(
        self,
        context: SSL.Context,
        *,
        server: bool,
        server_name: str | None = None,
        verification: Verification | None = None,
        alpn: tuple[str, ...] = (),
    ) -> None:
        connection = SSL.Connection(context, None)
        super().__init__(connection)
        self.verification: Verification | None = verification
        connection.set_app_data(verification)
        if server:
            connection.set_accept_state()
        else:
            if server_name is not None:
                connection.set_tlsext_host_name(_sni(server_name))
            if alpn:
                connection.set_alpn_protos([name.encode() for name in alpn])
            connection.set_connect_state()
        self._server = server
        self.unhurried: bool = False

    # --- the handshake -------------------------------------------------------------------------

    def handshake(self) -> bool:
        """Go on with the handshake, and say whether it is finished."""
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            verification = self.verification
            raise (verification and verification.refused) or refusal_of(error) from error
        self.more: bool = self.waits()
        self.unhurried = self._server and self.describe() == "TLSv1.3"
        return True

    def feed(self, data: bytes | bytearray) -> None:
        """Take bytes that the peer sent."""
        self._connection.bio_write(data)

    def facts(self) -> Tls:
        """Return what the handshake established."""
        name = self._connection.get_servername()
        alpn = self._connection.get_alpn_proto_negotiated()
        return Tls(
            peer_identity=None if self.verification is None else self.verification.name,
            server_name=None if name is None else name.decode("ascii", "replace").lower(),
            alpn=alpn.decode("ascii", "replace") or None,
        )

    # --- the end -------------------------------------------------------------------------------

    def close_notify(self) -> bytes:
        """Return the bytes that tell the peer that this side sends no more."""
        if self._failure is None:
            try:
                self._connection.shutdown()
            except SSL.Error:  # of a connection that failed: there is nothing to tell
                return b""
        return self.take()

    def describe(self) -> str:
        """Return the TLS version."""
        return self._connection.get_protocol_version_name()

    def __repr__(self) -> str:
        state = "failed" if self._failure is not None else "ended by the peer" if self.ended else "open"
        return f"<OpenSSLEngine {self.describe()} {state}>"


def _sni(name: str) -> bytes:
    try:
        encoded = name.encode("ascii" if name.isascii() else "idna")
    except UnicodeError as error:
        raise Refused("bad_host", repr(name[:300])) from error
    if b"\0" in encoded:
        raise Refused("bad_host", repr(name[:300]))
    return encoded
