"""TLS by the standard library, for users who come with an ``ssl.SSLContext``."""

from __future__ import annotations

import ssl
from contextlib import suppress

import trio

from linkerd_proxy.core.work import Tls
from linkerd_proxy.io.streams import Data
from linkerd_proxy.tls.engine import OVERGROWN
from linkerd_proxy.tls.refusal import Refused

__all__ = ["StdlibEngine"]

_CHUNK = 65536
_VERIFIED = {9: "not_yet_valid", 10: "expired", 18: "self_signed", 19: "unknown_ca", 20: "unknown_ca", 62: "host"}


class StdlibEngine:
    """One side of a TLS connection.

    Args:
        context: With certificate, trust, versions and protocols; it checks the host name, if it is to be checked.
        server: Which side.
        server_name: The SNI to send and the host to expect, for a client.
    """

    __slots__ = ("_from", "_into", "_object", "_rest", "_server_name", "ended", "more", "unhurried")

    def __init__(self, context: ssl.SSLContext, *, server: bool, server_name: str | None = None) -> None:
        self._into = ssl.MemoryBIO()
        self._from = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._into, self._from, server_side=server, server_hostname=server_name)
        self._server_name = server_name
        self._rest = bytearray()
        self.more: bool = False
        self.ended: bool = False
        self.unhurried: bool = False

    def handshake(self) -> bool:
        """Go on with the handshake, and say whether it is finished."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError as error:
            raise Refused(_VERIFIED.get(error.verify_code, "invalid"), error.verify_message) from error
        except ssl.SSLError as error:
            reason = (error.reason or "").lower().replace("_", " ")
            if "peer did not return a certificate" in reason:
                raise Refused("no_certificate") from error
            raise Refused("alert" if "alert" in reason else "protocol", reason) from error
        self.more = self._into.pending > 0
        self.unhurried = self._object.server_side and self.describe() == "TLSv1.3"
        return True

    def feed(self, data: bytes | bytearray) -> None:
        """Take bytes that the peer sent."""
        self._into.write(data)

    def take(self) -> bytes:
        """Return bytes that are to be sent."""
        return self._from.read()

    def facts(self) -> Tls:
        """Return what the handshake established."""
        return Tls(server_name=self._server_name, alpn=self._object.selected_alpn_protocol())

    def decrypt(self, data: bytes | bytearray, limit: int) -> bytes:
        """Take ciphertext and return plaintext."""
        if data:
            self._into.write(data)
        if not self._rest:
            self._rest += self._read(limit)
        taken = bytes(self._rest[:limit])
        del self._rest[:limit]
        self.more = bool(self._rest) or self._into.pending > 0 or self._object.pending() > 0
        if not taken:
            self.more = False
        return taken

    def _read(self, limit: int) -> bytes:
        try:
            data = self._object.read(min(limit, _CHUNK))
        except ssl.SSLWantReadError:
            if self._from.pending > OVERGROWN:
                raise trio.BrokenResourceError("the peer provokes answers that it does not take") from None
            return b""
        except ssl.SSLZeroReturnError:
            data = b""
        except ssl.SSLError as error:
            raise trio.BrokenResourceError(f"TLS failed: {error.reason}") from error
        if not data:
            self.ended = True
        return data

    def encrypt(self, data: Data) -> bytes:
        """Return ciphertext for plaintext."""
        try:
            with memoryview(data) as view:
                done = 0
                while done < len(view):
                    done += self._object.write(view[done:])
        except ssl.SSLError as error:
            raise trio.BrokenResourceError(f"TLS failed: {error.reason}") from error
        return self._from.read()

    def close_notify(self) -> bytes:
        """Return the bytes that tell the peer that this side sends no more."""
        # The library wants to wait for the peer's as well, and takes data before it for an error: that is kept first.
        with suppress(trio.BrokenResourceError):
            while not self.ended and (data := self._read(_CHUNK)):
                self._rest += data
        with suppress(ssl.SSLError, OSError):  # the peer's has not come, or the connection failed before
            self._object.unwrap()
        self.more = bool(self._rest)
        return self._from.read()

    def describe(self) -> str:
        """Return the TLS version."""
        return self._object.version() or "TLS"

    def __repr__(self) -> str:
        return f"<StdlibEngine {self.describe()} {'ended by the peer' if self.ended else 'open'}>"
