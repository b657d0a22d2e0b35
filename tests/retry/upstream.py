"""An upstream that behaves as a list says, and notes what it was asked."""

from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from linkerd_proxy.core.message import Body, Request, Response
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.headers import Headers
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.testing import call


class Chunks(Body):
    """A body of chunks, with waits between, that tells how much of it was pulled."""

    def __init__(self, *chunks, length=None, trailers=None, fails=None):
        super().__init__(length)
        self.chunks = list(chunks)
        self.pulled = 0
        self.ended = False
        self.ending = trailers
        self.fails = fails

    async def pull(self):
        await trio.lowlevel.checkpoint()
        while self.chunks:
            if isinstance(self.chunks[0], bytes):
                self.pulled += 1
                return self.chunks.pop(0)
            await trio.sleep(self.chunks[0])
            del self.chunks[0]
        if self.fails is not None:
            raise self.fails
        self.ended = True
        self.trailers = self.ending
        return b""


def grpc(status, *chunks, in_head=False, **fields):
    """Return a gRPC answer with a status in its trailers, or in its head."""
    end = [("grpc-status", str(status)), *((name.replace("_", "-"), value) for name, value in fields.items())]
    head = [("content-type", "application/grpc")]
    if in_head:
        return Response(200, head + end, version="2")
    return Response(200, head, Chunks(*chunks, trailers=Headers(end)), version="2")


@dataclass(frozen=True, slots=True)
class Upstream(Stack[Exchange]):
    """Does one thing of the list for each try, and the last one again: a status, a response, an error, a wait.

    A function is called with the exchange, and does as it likes. Bodies are read first, unless ``reads`` says no.
    """

    steps: list
    reads: bool = True
    asked: list = field(default_factory=list)
    bodies: list = field(default_factory=list)
    times: list = field(default_factory=list)
    cancelled: list = field(default_factory=list)

    @asynccontextmanager
    async def open(self):
        yield self.serve

    async def serve(self, exchange):
        number = len(self.asked)
        step = self.steps[min(number, len(self.steps) - 1)]
        self.asked.append(exchange.request)
        self.times.append(trio.current_time())
        try:
            if self.reads:
                self.bodies.append(await exchange.request.body.read(1 << 24))
            steps = step if isinstance(step, tuple) else (step,)
            for one in steps:
                await self._do(one, exchange)
        except trio.Cancelled:
            self.cancelled.append(number)
            raise

    async def _do(self, step, exchange):
        if isinstance(step, Exception):
            raise step
        if isinstance(step, float):
            await trio.sleep(step)
        elif isinstance(step, int):
            await exchange.respond(Response(step))
        elif isinstance(step, Response):
            await exchange.respond(step)
        else:
            await step(exchange)


def metric(name, **labels):
    """Return a counter's value in this run."""
    return current_registry().counter(name, "", **labels).value


async def ask(stack, request=None):
    """Return the status and the body of an answer."""
    async with call(stack, request or Request()) as response:
        return response.status, await response.body.read()


async def nobody(_):
    """Take no notice of an answer."""
    await trio.lowlevel.checkpoint()
