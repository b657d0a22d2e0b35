"""Raw frames for tests, built with hyperframe and hpack, which the proxy does not build its frames with."""

from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

GET = [(":method", "GET"), (":scheme", "http"), (":authority", "example.com"), (":path", "/")]
POST = [(":method", "POST"), (":scheme", "http"), (":authority", "example.com"), (":path", "/")]


def get(path="/", *more):
    return [*GET[:3], (":path", path), *more]


def post(path="/", *more):
    return [*POST[:3], (":path", path), *more]


def block(fields):
    """Encode fields without help of earlier blocks, so that any blocks may follow each other."""
    return Encoder().encode(fields, huffman=False)


def raw(kind, flags, stream, payload=b"", length=None):
    """A frame that hyperframe would not write."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def headers(stream, fields=GET, *flags, end=True, end_headers=True, **more):
    data = fields if isinstance(fields, bytes) else block(fields)
    frame = HeadersFrame(stream, data, **more)
    frame.flags |= set(flags)
    if end:
        frame.flags.add("END_STREAM")
    if end_headers:
        frame.flags.add("END_HEADERS")
    return frame.serialize()


def continuation(stream, data, *, end_headers=True):
    frame = ContinuationFrame(stream, data)
    if end_headers:
        frame.flags.add("END_HEADERS")
    return frame.serialize()


def data(stream, payload=b"", *, end=False, pad=None):
    frame = DataFrame(stream, payload)
    if pad is not None:
        frame.flags.add("PADDED")
        frame.pad_length = pad
    if end:
        frame.flags.add("END_STREAM")
    return frame.serialize()


def settings(values=None, *, ack=False):
    frame = SettingsFrame(0, settings=values or {})
    if ack:
        frame.flags.add("ACK")
    return frame.serialize()


def ping(payload=b"12345678", *, ack=False):
    frame = PingFrame(0, payload)
    if ack:
        frame.flags.add("ACK")
    return frame.serialize()


def rst(stream, code=8):
    return RstStreamFrame(stream, code).serialize()


def window(stream, increment):
    return raw(8, 0, stream, increment.to_bytes(4, "big"))


def goaway(last=0, code=0):
    return GoAwayFrame(0, last, code).serialize()


def priority(stream, depends_on=0, weight=16):
    return PriorityFrame(stream, depends_on=depends_on, stream_weight=weight).serialize()


HELLO = PREFACE + settings()


class Reader:
    """Parses what the proxy sent, with a decoder that sees every block."""

    def __init__(self):
        self.decoder = Decoder()
        self.buffer = b""
        self.frames = []

    def feed(self, data):
        self.buffer += data
        while len(self.buffer) >= 9:
            frame, size = Frame.parse_frame_header(memoryview(self.buffer[:9]))
            if len(self.buffer) < 9 + size:
                return
            frame.parse_body(memoryview(self.buffer[9 : 9 + size]))
            self.buffer = self.buffer[9 + size :]
            if isinstance(frame, HeadersFrame):
                assert "END_HEADERS" in frame.flags
                frame.fields = [(str(n), str(v)) for n, v in self.decoder.decode(frame.data)]
            self.frames.append(frame)

    def of(self, kind, stream=None):
        return [f for f in self.frames if type(f) is kind and (stream is None or f.stream_id == stream)]

    def statuses(self, stream):
        return [dict(f.fields).get(":status") for f in self.of(HeadersFrame, stream)]

    def body(self, stream):
        return b"".join(f.data for f in self.of(DataFrame, stream))

    def ended(self, stream):
        return any("END_STREAM" in f.flags for f in self.frames if f.stream_id == stream and hasattr(f, "flags"))

    def resets(self, stream=None):
        return [f.error_code for f in self.of(RstStreamFrame, stream)]

    def goaways(self):
        return [f.error_code for f in self.of(GoAwayFrame)]


__all__ = [name for name in dir() if not name.startswith("_")] + ["WindowUpdateFrame"]
