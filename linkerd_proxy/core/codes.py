"""The failure code that work is reported under when it has ended: the same in metrics, logs, traces and taps."""

from __future__ import annotations

import trio

from linkerd_proxy.core.message import Response
from linkerd_proxy.errors import CODES, NotAnswered, ProxyError

__all__ = ["CANCEL", "code_in", "code_of"]

CANCEL = "CANCEL"
"""What stands for work that was cancelled, for no error is there to name: Linkerd's word for a client that left."""


def code_of(error: Exception) -> str:
    """Return the failure code of an error: its own, ``IO`` for the system's, ``BUG`` for anything else."""
    if isinstance(error, ProxyError):
        return error.code
    return "IO" if isinstance(error, (OSError, trio.BrokenResourceError)) else "BUG"


def code_in(response: Response | None) -> str:
    """Return the failure code of an exchange whose service returned, or an empty string if it went well.

    An answer that ``Rescue`` made of a failure says so in ``l5d-proxy-error``: here or in a proxy further on, in the
    head, or in the trailers of a gRPC answer that failed half-way. Text of a peer that is no code of ours is none.

    Args:
        response: The final answer, its body pulled to its end, or None if there was none.
    """
    if response is None:
        return NotAnswered.code
    told = response.headers.get("l5d-proxy-error")
    if told is None and response.body.trailers is not None:
        told = response.body.trailers.get("l5d-proxy-error")
    code = (told or "").partition(" ")[0]
    return code if code in CODES else ""
