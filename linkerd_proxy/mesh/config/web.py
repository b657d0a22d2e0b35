"""Certificates of the ordinary web that a configuration names."""

from __future__ import annotations

import ssl
from pathlib import Path

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.config.listeners import TlsEntry

__all__ = ["web_context"]


def web_context(entry: TlsEntry, base: Path) -> ssl.SSLContext:
    """Return the context of a certificate of the ordinary web.

    Raises:
        InvalidConfiguration: if its files can't be used.
    """
    assert entry.certificate is not None
    assert entry.key is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", "http/1.1"])
    certificate, key = base / entry.certificate, base / entry.key
    try:
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise InvalidConfiguration(
            f"{certificate} and {key} can't be used together ({error.reason or error}): give a certificate and its "
            "own key, in PEM and not encrypted"
        ) from None
    except OSError as error:
        raise InvalidConfiguration(
            f"{certificate} or {key} can't be read: {error.strerror}; name other files"
        ) from None
    return context
