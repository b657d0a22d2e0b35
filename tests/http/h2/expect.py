"""What a case expects of the server."""

from dataclasses import dataclass, field

NO_ERROR, PROTOCOL, INTERNAL, FLOW, TIMEOUT, CLOSED, SIZE, REFUSED, CANCEL, COMPRESSION, CONNECT, CALM = range(12)


@dataclass(frozen=True)
class Case:
    section: str
    name: str
    frames: list
    expect: object
    hello: bool = True
    limits: dict = field(default_factory=dict)

    @property
    def id(self):
        return f"{self.section} {self.name}"


@dataclass(frozen=True)
class Answered:
    """The stream is answered with this status, and the connection goes on."""

    stream: int = 1
    status: str = "200"
    content: bytes | None = None
    seen: int | None = None

    async def check(self, peer):
        reader = peer.reader
        assert reader.statuses(self.stream) == [self.status], reader.frames
        if self.content is not None:
            assert reader.body(self.stream) == self.content
        if self.seen is not None:
            (head,) = [f for f in reader.frames if f.stream_id == self.stream and hasattr(f, "fields")]
            assert dict(head.fields)["seen"] == str(self.seen)
        assert PROTOCOL not in reader.resets(self.stream)
        assert await peer.is_well()


@dataclass(frozen=True)
class StreamError:
    """The stream is reset with this code, and the connection goes on."""

    code: int
    stream: int = 1

    async def check(self, peer):
        assert peer.reader.resets(self.stream) == [self.code], peer.reader.frames
        assert await peer.is_well()
        assert all(code == self.code for code in peer.reader.resets())


@dataclass(frozen=True)
class ConnectionEnds:
    """The connection ends with this code."""

    code: int

    async def check(self, peer):
        with_deadline = peer.reader.goaways()
        assert with_deadline == [self.code], peer.reader.frames
        await peer.done.wait()
        await peer.settle()
        assert peer.closed
        assert peer.failure is not None
        assert peer.application.running == 0


@dataclass(frozen=True)
class Fine:
    """Nothing is reset, and the connection goes on."""

    async def check(self, peer):
        assert peer.reader.resets() == [], peer.reader.frames
        assert peer.reader.goaways() == []
        assert await peer.is_well()
