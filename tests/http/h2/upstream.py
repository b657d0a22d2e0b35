"""An upstream made of raw frames, before a client connection in memory."""

from contextlib import asynccontextmanager

import trio
import trio.testing

from linkerd_proxy.core.message import Request, Streamed
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.http.deadlines import open_deadlines
from linkerd_proxy.http.h2.client import H2Client
from linkerd_proxy.http.limits import Limits
from tests.http.h2.frames import PREFACE, Reader, settings
from tests.http.h2.peer import CLIENT, SERVER

OK = [(":status", "200")]


def get(path="/", *more):
    return Request("GET", path, list(more), authority="a", version="2")


def post(body, *more):
    return Request("POST", "/", list(more), body, authority="a", version="2")


class Feed:
    """A body that the test feeds."""

    def __init__(self):
        self.send, self.receive = trio.open_memory_channel(10)

    def body(self, length=None):
        return Streamed(self.receive, length)


class Call:
    """One exchange that is asked, and what became of it."""

    def __init__(self, request):
        self.request = request
        self.responses = []
        self.content = b""
        self.trailers = None
        self.error = None
        self.done = trio.Event()
        self.scope = trio.CancelScope()
        self.reading = trio.Event()
        self.reading.set()

    async def respond(self, response):
        self.responses.append(response)
        if response.is_final:
            while True:
                await self.reading.wait()
                chunk = await response.body.pull()
                if not chunk:
                    break
                self.content += chunk
            self.trailers = response.body.trailers

    @property
    def statuses(self):
        return [response.status for response in self.responses]


class Upstream:
    """The server's side: look at what was asked, and send frames."""

    def __init__(self, client, stream, nursery):
        self.client = client
        self.stream = stream
        self.nursery = nursery
        self.reader = Reader()
        self.received = b""
        self.closed = False
        self.over = trio.Event()

    async def receive(self):
        while True:
            try:
                data = await self.stream.receive_some(1 << 20)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                self.closed = True
                return
            new = self.received + data
            if len(self.received) < len(PREFACE) <= len(new):
                assert new.startswith(PREFACE)
                self.reader.feed(new[len(PREFACE) :])
            elif len(self.received) >= len(PREFACE):
                self.reader.feed(data)
            self.received = new

    async def send(self, *frames):
        for frame in frames:
            await self.stream.send_all(frame)
        await self.settle()
        return self.reader

    async def settle(self):
        await trio.testing.wait_all_tasks_blocked()

    async def ask(self, request=None):
        call = Call(request or Request("GET", "/", authority="a", version="2"))
        self.nursery.start_soon(self._ask, call)
        await self.settle()
        return call

    async def _ask(self, call):
        connection = Connection(self.stream, CLIENT, SERVER)
        with call.scope:
            try:
                await self.client.exchange(Exchange(call.request, call.respond, connection))
            except Exception as error:  # the test looks at it
                call.error = error
        call.done.set()


@asynccontextmanager
async def upstream(*, limits=None, greet=True, values=None):
    """Yield the server's side of a client connection."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with open_deadlines() as deadlines, trio.open_nursery() as nursery:
        client = H2Client(limits or Limits(), deadlines)
        side = Upstream(client, theirs, nursery)

        async def run():
            try:
                await client.run(ours)
            finally:
                await trio.aclose_forcefully(ours)
                side.over.set()

        nursery.start_soon(side.receive)
        nursery.start_soon(run)
        if greet:
            await side.send(settings(values or {}), settings(ack=True))
        yield side
        nursery.cancel_scope.cancel()
    assert client.closed
    assert client.open_streams == 0
    assert len(deadlines) == 0
