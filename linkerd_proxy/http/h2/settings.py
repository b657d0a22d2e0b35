"""SETTINGS (RFC 9113 section 6.5): reading the peer's, and what they change."""

from __future__ import annotations

from struct import iter_unpack

from linkerd_proxy.http.h2.codes import ErrorCode, Violation

__all__ = [
    "ENABLE_CONNECT_PROTOCOL",
    "ENABLE_PUSH",
    "HEADER_TABLE_SIZE",
    "INITIAL_WINDOW",
    "INITIAL_WINDOW_SIZE",
    "MAX_CONCURRENT_STREAMS",
    "MAX_HEADER_LIST_SIZE",
    "MAX_WINDOW",
    "PeerSettings",
]

HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6
ENABLE_CONNECT_PROTOCOL = 0x8  # RFC 8441

INITIAL_WINDOW = 65_535
MAX_WINDOW = 2**31 - 1
_LARGEST_FRAME = 2**24 - 1
_FRAME_SENT = 16_384  # larger frames would only delay other streams' frames


class PeerSettings:
    """What the peer asked for, at its initial values until it did."""

    __slots__ = ("connect_protocol", "frame_size", "header_list", "is_server", "max_streams", "table_size", "window")

    def __init__(self, *, is_server: bool) -> None:
        self.is_server: bool = is_server
        self.table_size: int = 4096
        self.max_streams: int | None = None
        self.window: int = INITIAL_WINDOW
        self.frame_size: int = _FRAME_SENT
        self.header_list: int | None = None
        self.connect_protocol: bool = False

    def apply(self, payload: bytes) -> None:
        """Take the values of one SETTINGS frame in order; unknown ones are ignored.

        Raises:
            Violation: for a value outside its range.
        """
        for key, value in iter_unpack(">HL", payload):
            if key == INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise Violation(ErrorCode.FLOW_CONTROL_ERROR, f"an initial window of {value} bytes")
                self.window = value
            elif key == MAX_FRAME_SIZE:
                if not _FRAME_SENT <= value <= _LARGEST_FRAME:
                    raise Violation(ErrorCode.PROTOCOL_ERROR, f"a frame size of {value} bytes")
            elif key == HEADER_TABLE_SIZE:
                self.table_size = value
            elif key == MAX_CONCURRENT_STREAMS:
                self.max_streams = value
            elif key == MAX_HEADER_LIST_SIZE:
                self.header_list = value
            else:
                self._switch(key, value)

    def _switch(self, key: int, value: int) -> None:
        if key == ENABLE_PUSH:
            if value > 1 or (value and self.is_server):
                raise Violation(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH={value}")
        elif key == ENABLE_CONNECT_PROTOCOL:
            if value > 1 or (self.connect_protocol and not value):
                raise Violation(ErrorCode.PROTOCOL_ERROR, f"ENABLE_CONNECT_PROTOCOL={value}")
            self.connect_protocol = bool(value)
