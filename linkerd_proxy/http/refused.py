"""What a codec answers by itself where no layer could: a status, and perhaps why."""

from __future__ import annotations

from linkerd_proxy.errors import BadRequest, ProxyError, RequestTimeout

__all__ = ["refusal_of"]


def refusal_of(error: Exception) -> tuple[int, bytes]:
    """Return the status for a failure, and what ``l5d-proxy-error`` tells the client of it, in printable ASCII.

    Only what the client itself did is explained to it; ``Rescue`` decides who may know more.
    """
    status = error.status if isinstance(error, ProxyError) else 500
    if not isinstance(error, BadRequest | RequestTimeout):
        return status, b""
    text = error.explanation.encode("ascii", "backslashreplace")
    return status, bytes(byte if 32 <= byte < 127 else 63 for byte in text)
