"""WebSockets between versions: HTTP/1's handshake keys have no place in HTTP/2 (RFC 8441 section 5)."""

from __future__ import annotations

import hashlib
import secrets
from base64 import b64encode

from linkerd_proxy.headers import RawHeaders

__all__ = ["accepted_in_h1", "accepted_in_h2", "asked_in_h2", "asking_h2"]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_KEY = b"sec-websocket-key"
_ACCEPT = b"sec-websocket-accept"


def asked_in_h2(raw: RawHeaders) -> RawHeaders:
    """Return an extended CONNECT's fields with the key that an HTTP/1 upstream will want."""
    fields = [field for field in raw if field[0] != _KEY]
    fields.append((_KEY, b64encode(secrets.token_bytes(16))))
    return fields


def accepted_in_h2(raw: RawHeaders) -> RawHeaders:
    """Return the fields of a positive answer without the proof that an HTTP/1 upstream gave."""
    return [field for field in raw if field[0] != _ACCEPT]


def asking_h2(raw: RawHeaders) -> tuple[RawHeaders, bytes | None]:
    """Return an upgrade's fields without the key, and the key."""
    key = next((value for name, value in raw if name == _KEY), None)
    return [field for field in raw if field[0] != _KEY], key


def accepted_in_h1(raw: RawHeaders, key: bytes | None) -> RawHeaders:
    """Return the fields of a positive answer with the proof that an HTTP/1 client wants."""
    fields = accepted_in_h2(raw)
    if key is not None:
        digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
        fields.append((_ACCEPT, b64encode(digest)))
    return fields
