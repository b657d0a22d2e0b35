"""What a TLS stream asks of the library that does TLS: bytes in, bytes out, no I/O."""

from __future__ import annotations

from typing import Protocol

from linkerd_proxy.core.work import Tls
from linkerd_proxy.io.streams import Data

__all__ = ["MAX_PIECE", "OVERGROWN", "RECORD", "Engine"]

MAX_PIECE = 65536
"""How much plaintext :meth:`Engine.encrypt` takes at once: four records of the largest size."""
RECORD = 16384
"""Bytes of plaintext in the largest record."""
OVERGROWN = 65536
"""Bytes of answers that a peer may provoke without taking them: key updates without end."""


class Engine(Protocol):
    """One side of one TLS connection, on memory."""

    more: bool
    """Whether decrypting may yield something without new bytes from the peer."""
    ended: bool
    """Whether the peer's close_notify came: there is nothing after it."""

    unhurried: bool
    """Whether what is to be sent after the handshake may wait for the first data: a TLS 1.3 server's tickets, which
    nothing can be resumed with, but which OpenSSL sends."""

    def handshake(self) -> bool:
        """Go on with the handshake, and say whether it is finished. What to send is in :meth:`take`.

        Raises:
            Refused: if it failed; an alert for the peer may be in :meth:`take`.
        """
        raise NotImplementedError

    def feed(self, data: bytes | bytearray) -> None:
        """Take bytes that the peer sent."""

    def take(self) -> bytes:
        """Return bytes that are to be sent to the peer, perhaps none, and forget them."""
        raise NotImplementedError

    def decrypt(self, data: bytes | bytearray, limit: int) -> bytes:
        """Take bytes that the peer sent, perhaps none, and return plaintext: empty if more is needed, or at the end.

        Raises:
            trio.BrokenResourceError: if they are no valid TLS, or an alert.
        """
        raise NotImplementedError

    def encrypt(self, data: Data) -> bytes:
        """Return the bytes to send for at most MAX_PIECE of plaintext, after whatever was waiting to be sent.

        Raises:
            trio.BrokenResourceError: if the connection failed before.
        """
        raise NotImplementedError

    def close_notify(self) -> bytes:
        """Return the bytes that tell the peer that this side sends no more. Decrypting goes on."""
        raise NotImplementedError

    def facts(self) -> Tls:
        """Return what the handshake established."""
        raise NotImplementedError

    def describe(self) -> str:
        """Return the TLS version, for a ``repr``."""
        raise NotImplementedError
