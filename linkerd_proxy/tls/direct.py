"""How a TLS connection's bytes move past pyOpenSSL's Python: by the C functions underneath, which it keeps to itself.

They are the same calls with fewer steps and copies. Where a release of pyOpenSSL is other inside,
:mod:`linkerd_proxy.tls.public` takes this module's place.
"""

from __future__ import annotations

import threading
from typing import Any, Final

import trio
from OpenSSL import SSL

from linkerd_proxy.io.streams import Data
from linkerd_proxy.tls.engine import MAX_PIECE, OVERGROWN, RECORD
from linkerd_proxy.tls.reasons import broken_by

__all__ = ["Direct", "is_possible"]

_FUNCTIONS = (
    "SSL_write", "SSL_read", "SSL_get_error", "SSL_ERROR_WANT_READ", "SSL_ERROR_ZERO_RETURN", "BIO_write", "BIO_read",
    "BIO_get_mem_data",
)  # fmt: skip
_PARTS = ("_ssl", "_into_ssl", "_from_ssl", "_raise_ssl_error")


def _has_names() -> bool:
    library = getattr(SSL, "_lib", None)
    if getattr(SSL, "_ffi", None) is None or not all(hasattr(library, name) for name in _FUNCTIONS):
        return False
    connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    return all(hasattr(connection, name) for name in _PARTS)


_lib: Final[Any] = getattr(SSL, "_lib", None)
_ffi: Final[Any] = getattr(SSL, "_ffi", None)

_POSSIBLE: Final = _has_names()
_NULL: Final[Any] = _ffi.NULL if _POSSIBLE else None
_buffer: Final[Any] = _ffi.buffer if _POSSIBLE else None
_write: Final[Any] = _lib.SSL_write if _POSSIBLE else None
_read: Final[Any] = _lib.SSL_read if _POSSIBLE else None
_put: Final[Any] = _lib.BIO_write if _POSSIBLE else None
_get: Final[Any] = _lib.BIO_read if _POSSIBLE else None
# With no place for the pointer: how many bytes there are.
_waiting: Final[Any] = _lib.BIO_get_mem_data if _POSSIBLE else None

_ALERT = bytes.fromhex("15 0301 0002 0228")  # fatal: handshake_failure
_ROOM = 2 * MAX_PIECE  # four records and their overhead, and whatever waited before them


class _Scratch(threading.local):
    """Where one thread's connections put bytes for the time of a call."""

    def __init__(self) -> None:
        self.room: Any = _ffi.new("char[]", _ROOM)


_scratch = _Scratch() if _POSSIBLE else None


class Direct:
    """Moves the bytes of one pyOpenSSL connection.

    Args:
        connection: On memory.
    """

    __slots__ = ("_connection", "_failure", "_from", "_into", "_room", "_ssl", "ended", "more")

    def __init__(self, connection: SSL.Connection) -> None:
        assert _scratch is not None
        self._connection = connection
        inside: Any = connection
        self._ssl = inside._ssl
        self._into = inside._into_ssl
        self._from = inside._from_ssl
        self._room = _scratch.room
        self._failure: trio.BrokenResourceError | None = None
        self.more: bool = False
        self.ended: bool = False

    def waits(self) -> bool:
        """Whether bytes from the peer are left."""
        return bool(_waiting(self._into, _NULL) > 0)

    def take(self) -> bytes:
        """Return bytes that are to be sent."""
        taken = b""
        while (size := _get(self._from, self._room, _ROOM)) > 0:
            taken += _buffer(self._room, size)[:]
        return taken

    def decrypt(self, data: bytes | bytearray, limit: int) -> bytes:
        """Take ciphertext and return plaintext."""
        if self._failure is not None:
            raise self._failure
        into, ssl, room = self._into, self._ssl, self._room
        if data:
            _put(into, data if type(data) is bytes else bytes(data), len(data))
        if limit > _ROOM:
            limit = _ROOM
        got = _read(ssl, room, limit)
        if got > 0:
            size = got
            # A record may have been left over, and a further one may be here in part.
            while size < limit and _waiting(into, _NULL) > 0:
                got = _read(ssl, room + size, limit - size)
                if got <= 0:
                    self._note(got)
                    break
                size += got
            self.more = size == limit or self.ended or self._failure is not None
            return bytes(_buffer(room, size))
        self.more = False
        self._note(got)
        if self._failure is not None:
            raise self._failure
        return b""

    def _note(self, result: int) -> None:
        """Find out why nothing was read: more is needed, the end came, or a failure to be raised."""
        code = _lib.SSL_get_error(self._ssl, result)
        if code == _lib.SSL_ERROR_WANT_READ:
            if _waiting(self._from, _NULL) > OVERGROWN:
                self._failure = trio.BrokenResourceError("the peer provokes answers that it does not take")
        elif code == _lib.SSL_ERROR_ZERO_RETURN:
            self.ended = True
        else:
            self._failure = self._why(result)

    def _why(self, result: int) -> trio.BrokenResourceError:
        try:
            inside: Any = self._connection
            inside._raise_ssl_error(self._ssl, result)
        except SSL.Error as error:
            return broken_by(error)
        return trio.BrokenResourceError("TLS failed")

    def encrypt(self, data: Data) -> bytes:
        """Return ciphertext for plaintext."""
        ssl, room = self._ssl, self._room
        size = len(data)
        if type(data) is bytes and size <= RECORD:  # bytes pass through cffi without a buffer object
            done = _write(ssl, data, size)
        else:
            done = 0
            with _ffi.from_buffer(data) as pointer:
                while done < size:  # at most one record a call
                    wrote = _write(ssl, pointer + done, size - done)
                    if wrote <= 0:
                        done = wrote
                        break
                    done += wrote
        if done != size:
            raise self._failure or self._why(done)
        length = _get(self._from, room, _ROOM)
        if length < _ROOM:
            return bytes(_buffer(room, length))
        return bytes(_buffer(room, length)) + self.take()


def is_possible() -> bool:
    """Whether pyOpenSSL is inside as this module takes it to be: the names are there, and each does what it did.

    A client that has no server is made to write its hello and to read an alert, which asks every function once. A
    release in which one of them takes or gives something else is noticed here, and not by the first connection.
    """
    if not _POSSIBLE:
        return False
    try:
        return all(_serves(data) for data in (b"x", bytearray(b"x"), memoryview(b"x" * 2 * RECORD)))
    except Exception:  # of whatever kind a call gives that is not what it was
        return False


def _serves(data: Data) -> bool:
    connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    connection.set_connect_state()
    client = Direct(connection)
    if client.waits():
        return False
    try:
        client.encrypt(data)
        return False  # before the handshake nothing can be
    except trio.BrokenResourceError:
        pass
    hello = client.take()
    if not hello.startswith(b"\x16\x03") or client.take() or client.decrypt(b"", RECORD) or client.more or client.ended:
        return False
    connection.bio_write(_ALERT[:3])
    if not client.waits():
        return False
    try:
        client.decrypt(_ALERT[3:], RECORD)
        return False
    except trio.BrokenResourceError:
        return not client.waits() and isinstance(_lib.SSL_ERROR_ZERO_RETURN, int)
