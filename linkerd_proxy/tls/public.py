"""How a TLS connection's bytes move by what pyOpenSSL documents: for releases of it that are other inside."""

from __future__ import annotations

import socket

import trio
from OpenSSL import SSL

from linkerd_proxy.io.streams import Data
from linkerd_proxy.tls.engine import MAX_PIECE, OVERGROWN, RECORD
from linkerd_proxy.tls.reasons import broken_by

__all__ = ["Public"]


class Public:
    """Moves the bytes of one pyOpenSSL connection.

    Args:
        connection: On memory.
    """

    __slots__ = ("_connection", "_failure", "_unsent", "ended", "more")

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection
        self._failure: trio.BrokenResourceError | None = None
        self._unsent = b""
        self.more: bool = False
        self.ended: bool = False

    def waits(self) -> bool:
        """Whether something of the peer's is left: data, its end, or what can't be read."""
        try:
            self._connection.recv(1, socket.MSG_PEEK)
        except SSL.WantReadError:
            return False
        except SSL.Error:
            return True  # decrypting finds it again
        return True

    def take(self) -> bytes:
        """Return bytes that are to be sent."""
        taken, self._unsent = self._unsent, b""
        try:
            while True:
                taken += self._connection.bio_read(2 * MAX_PIECE)
        except SSL.WantReadError:
            return taken

    def decrypt(self, data: bytes | bytearray, limit: int) -> bytes:
        """Take ciphertext and return plaintext."""
        if self._failure is not None:
            raise self._failure
        if data:
            self._connection.bio_write(bytes(data))
        taken = b""
        try:
            while len(taken) < limit:
                taken += self._connection.recv(limit - len(taken))
        except SSL.WantReadError:
            self._unsent = self.take()
            if len(self._unsent) > OVERGROWN:
                self._failure = trio.BrokenResourceError("the peer provokes answers that it does not take")
        except SSL.ZeroReturnError:
            self.ended = True
        except SSL.Error as error:
            self._failure = broken_by(error)
        self.more = bool(taken) and (len(taken) == limit or self.ended or self._failure is not None)
        if not taken and self._failure is not None:
            raise self._failure
        return taken

    def encrypt(self, data: Data) -> bytes:
        """Return ciphertext for plaintext."""
        try:
            with memoryview(data) as view:
                done = 0
                while done < len(view):
                    with view[done : done + RECORD] as piece:
                        done += self._connection.send(piece)
        except SSL.Error as error:
            raise self._failure or broken_by(error) from error
        return self.take()
