"""Two proxies with mutual TLS between them, in a thread of the test's, and an ear on the wire between them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import trio

from linkerd_proxy import (
    BETWEEN_PROXIES,
    Client,
    Connect,
    Connection,
    Detect,
    Dial,
    Downgrade,
    Forward,
    Http,
    InboundHeaders,
    Layer,
    OutboundHeaders,
    Rescue,
    SendTransportHeader,
    Service,
    Stack,
    TransportHeader,
    Upgrade,
    open_listeners,
    serve,
)
from linkerd_proxy.address import Address
from linkerd_proxy.balance.towards import Towards
from linkerd_proxy.core.endpoint import Endpoint
from linkerd_proxy.http.h1.codec import CodecName
from linkerd_proxy.io.streams import abort_nowait, watch_hangup
from linkerd_proxy.io.transport_header import ALPN
from linkerd_proxy.testing import Authority
from linkerd_proxy.tls.identity import Given
from linkerd_proxy.tls.originate import Originate
from linkerd_proxy.tls.terminate import Terminate
from tests.patience import PATIENCE

CLIENT, SERVER = "client.ns.mesh.local", "server.ns.mesh.local"
MARKERS = (
    *(
        b"HTTP/1.",
        b"HTTP/2.0",
        b"\r\nhost: ",
        b"\r\nHost: ",
        b"GET /hello",
        b"POST /echo",
        b"hello, world!",
        b"you said ",
    ),
    *(b"220 flow.test ready", b"flow.Test/", b"application/grpc", b"x-trailing", b"x-checksum", b"flow.test"),
    *(b"transport.l5d.io/v1\r\n", b"l5d-orig-proto", b"l5d-client-id", b"some content", b"as you asked"),
)
"""What the flows say: none of it may be heard. (Long enough never to occur in ciphertext by chance.)"""
_RECORD_TYPES = {20, 21, 22, 23}  # RFC 8446 section 5.1


class Ear:
    """Listens to one direction of a wire, a chunk at a time, and keeps what it understood."""

    def __init__(self, heard: set[bytes]) -> None:
        self.heard = heard
        self.size = 0
        self.other_records = 0
        self._tail = b""
        self._rest = 0
        self._head = b""

    def listen(self, data: bytes) -> None:
        self.size += len(data)
        text = self._tail + data
        self.heard.update(marker for marker in MARKERS if marker in text)
        self._tail = text[-32:]
        self._follow(data)

    def _follow(self, data: bytes) -> None:
        """Walk from record to record: all of the bytes must be TLS."""
        at = 0
        while at < len(data):
            if self._rest:
                step = min(self._rest, len(data) - at)
                self._rest -= step
            else:
                step = min(5 - len(self._head), len(data) - at)
                self._head += data[at : at + step]
                if len(self._head) == 5:
                    self.other_records += self._head[0] not in _RECORD_TYPES or self._head[1] != 3
                    self._rest = int.from_bytes(self._head[3:])
                    self._head = b""
            at += step


@dataclass(frozen=True, slots=True)
class Tap(Layer[Dial, Dial]):
    """Lets every byte of the wire be heard. Stands right before ``Connect``."""

    heard: set[bytes] = field(default_factory=set)
    ears: list[Ear] = field(default_factory=list)

    @asynccontextmanager
    async def open(self, inner: Service[Dial]) -> AsyncIterator[Service[Dial]]:
        async def service(dial: Dial) -> None:
            use = dial.use

            async def tapped(stream: trio.abc.HalfCloseableStream) -> None:
                out, back = Ear(self.heard), Ear(self.heard)
                self.ears.extend((out, back))
                await use(Tapped(stream, out, back))

            await inner(Dial(dial.target, tapped, dial.client, dial.destination))

        yield service


class Tapped(trio.abc.HalfCloseableStream):
    """A stream whose bytes are listened to on their way."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, out: Ear, back: Ear) -> None:
        self.stream = stream
        self.out = out
        self.back = back

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.out.listen(bytes(data))
        await self.stream.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self.stream.receive_some(max_bytes)
        self.back.listen(bytes(data))
        return data

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()

    def abort(self) -> None:
        abort_nowait(self.stream)

    def watch_hangup(self, callback: object) -> None:
        watch_hangup(self.stream, callback)  # type: ignore[arg-type]


@dataclass(eq=False)
class Pair:
    """A running pair: where clients connect, and what was heard between the proxies."""

    port: int
    tap: Tap

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many there were between the proxies."""
        return len(self.tap.ears) // 2


def inbound(identity: Given | None, codec: CodecName) -> Stack[Connection]:
    """What stands before the application."""
    http = (
        Http(codec=codec, limits=BETWEEN_PROXIES)
        | Downgrade()
        | Rescue(headers="meshed")
        | InboundHeaders()
        | Client(codec=codec)
        | Connect()
    )
    known = Detect(http=http, otherwise=Forward() | Connect())
    return Terminate(identity, require_identity=True) | TransportHeader(required=True) | known


def outbound(
    identity: Given | None, codec: CodecName, endpoint: Endpoint, tap: Tap, *, opaque: bool
) -> Stack[Connection]:
    """What stands before the client."""
    link = Towards(endpoint) | SendTransportHeader() | Originate(identity, alpn=(ALPN,)) | tap | Connect()
    tcp = Forward() | link
    asking = Upgrade() | Client(protocol="h2", codec=codec, limits=BETWEEN_PROXIES)
    http = Http(codec=codec) | Rescue() | OutboundHeaders(endpoint.identity) | asking | link
    return tcp if opaque else Detect(http=http, otherwise=tcp)


@contextmanager
def pair(to: int, *, codec: CodecName = "auto", opaque: bool = False) -> Iterator[Pair]:
    """Run both proxies before the application on that port. At the end, nothing may have been heard in the clear."""
    started = threading.Event()
    running: list[tuple[Pair, trio.lowlevel.TrioToken, trio.CancelScope]] = []
    failures: list[BaseException] = []

    async def main() -> None:
        authority = Authority()
        tap = Tap()
        (entrance,) = await open_listeners("127.0.0.1:0")
        (middle,) = await open_listeners("127.0.0.1:0")
        assert isinstance(entrance.address, Address)
        assert isinstance(middle.address, Address)
        endpoint = Endpoint(Address("127.0.0.1", to), identity=SERVER, tagged_port=middle.address.port)
        first = outbound(Given(authority.issue(CLIENT)), codec, endpoint, tap, opaque=opaque)
        second = inbound(Given(authority.issue(SERVER)), codec)
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, second, [middle])
            await nursery.start(serve, first, [entrance])
            running.append((Pair(entrance.address.port, tap), trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            started.set()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(PATIENCE)
    assert running, failures
    one, token, scope = running[0]
    try:
        yield one
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join(PATIENCE)
    assert not failures
    assert one.connections
    assert not one.tap.heard, f"heard in the clear: {sorted(one.tap.heard)}"
    assert not any(ear.other_records for ear in one.tap.ears), "not all of it was TLS"
