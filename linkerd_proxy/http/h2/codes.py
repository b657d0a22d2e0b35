"""HTTP/2 error codes (RFC 9113 section 7), and the two ways in which a peer can break the protocol."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["ErrorCode", "NotHttp2", "StreamViolation", "Violation", "code_name"]


class ErrorCode(IntEnum):
    """The codes that RST_STREAM and GOAWAY carry."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


def code_name(code: int) -> str:
    """Return a code's name, or its number if it has none (a peer may send any)."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error {code:#x}"


class Violation(Exception):
    """The peer broke the protocol, or crossed a limit, so that the whole connection must end (RFC 9113 section 5.4.1).

    Args:
        code: What the GOAWAY says.
        problem: What happened, in plain words.
    """

    def __init__(self, code: ErrorCode, problem: str) -> None:
        super().__init__(problem)
        self.code = code
        self.problem = problem


class NotHttp2(Violation):
    """What the peer says is no HTTP/2 from its first byte on: it is text, as HTTP/1 is."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.PROTOCOL_ERROR, "it answers in text, as HTTP/1 does")


class StreamViolation(Exception):
    """The peer broke the protocol on one stream; the others go on (RFC 9113 section 5.4.2)."""

    def __init__(self, stream_id: int, code: ErrorCode, problem: str) -> None:
        super().__init__(problem)
        self.stream_id = stream_id
        self.code = code
        self.problem = problem
