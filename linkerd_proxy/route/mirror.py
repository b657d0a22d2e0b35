"""The filter that sends a copy of requests elsewhere too, and never lets the original wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal, TypeAlias, get_args

import trio

from linkerd_proxy.core.background import open_background
from linkerd_proxy.core.message import EMPTY, Body, Request, Response, Whole
from linkerd_proxy.core.passing import Passing
from linkerd_proxy.core.stack import Layer, Service, Stack, opened
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.headers import Headers
from linkerd_proxy.metrics.registry import Counter, current_registry

__all__ = ["Mirror"]

_Result: TypeAlias = Literal["sent", "failed", "timeout", "dropped", "too_large", "incomplete"]


@dataclass(frozen=True, slots=True, repr=False)
class Mirror(Layer[Exchange, Exchange]):
    """Sends a copy of requests to another backend too (Gateway API: RequestMirror).

    Fire and forget: the copy is sent once the original's body has passed, by a task of its own; its answer is read and
    dropped, and its failure is counted. The original waits for nothing. What can't be copied so goes on without a copy:
    bodies that are too long or were not read to their end, tunnels, and requests that come while too many copies are on
    their way. ``mirror_requests_total`` counts copies by ``result``: ``sent``, ``failed``, ``timeout``, ``dropped``,
    ``too_large`` or ``incomplete``.

    Args:
        backend: Where copies go.
        ratio: Which part of the requests is copied, from 0 to 1.
        in_flight: Copies that may be on their way at once, those included whose original's body still comes.
        limit: Bytes of a body that are kept for the copy; with ``in_flight`` this bounds the memory.
        timeout: Seconds that a copy may take.
        dice: Where chance comes from.

    Raises:
        InvalidConfiguration: for a figure that none can be.
    """

    backend: Stack[Exchange]
    ratio: float = 1.0
    in_flight: int = 100
    limit: int = 65536
    timeout: float = 10.0
    dice: Random = field(default_factory=Random, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise InvalidConfiguration(f"Mirror(ratio={self.ratio!r}): give a ratio from 0 to 1")
        if self.in_flight < 1 or self.limit < 0 or self.timeout <= 0:
            raise InvalidConfiguration("Mirror(): give in_flight and timeout more than 0, and a limit of 0 or more")

    @asynccontextmanager
    async def open(self, inner: Service[Exchange]) -> AsyncIterator[Service[Exchange]]:
        """Open the backend, and yield the live service. Copies on their way are cancelled at the end."""
        async with opened(self.backend) as backend, open_background() as nursery:
            yield _Mirroring(self, inner, backend, nursery).serve


class _Mirroring:
    """One opened mirror."""

    __slots__ = ("_backend", "_config", "_context", "_flying", "_inner", "_nursery", "_results")

    def __init__(
        self, config: Mirror, inner: Service[Exchange], backend: Service[Exchange], nursery: trio.Nursery
    ) -> None:
        registry = current_registry()
        self._config = config
        self._inner = inner
        self._backend = backend
        self._nursery = nursery
        self._flying = 0
        self._context = copy_context()
        self._results: dict[_Result, Counter] = {
            result: registry.counter(
                "mirror_requests_total", "Copies of requests, by what became of them", result=result
            )
            for result in get_args(_Result)
        }

    async def serve(self, exchange: Exchange) -> None:
        request, config = exchange.request, self._config
        if request.wants_tunnel or (config.ratio < 1 and config.dice.random() >= config.ratio):
            await self._inner(exchange)
        elif self._flying >= config.in_flight:
            self._results["dropped"].value += 1
            await self._inner(exchange)
        elif request.body.length is not None and request.body.length > config.limit:
            self._results["too_large"].value += 1
            await self._inner(exchange)
        elif isinstance(request.body, Whole):
            self._flying += 1
            self._start(exchange, request.body.data, request.body.trailers)
            await self._inner(exchange)
        else:
            await self._serve_teed(exchange)

    async def _serve_teed(self, exchange: Exchange) -> None:
        request = exchange.request
        tee = _Tee(request.body, self._config.limit, lambda data, trailers: self._start(exchange, data, trailers))
        self._flying += 1
        try:
            await self._inner(exchange.asking(request.replace(body=tee)))
        finally:
            if not tee.ended:
                self._flying -= 1
                self._results["too_large" if tee.too_large else "incomplete"].value += 1

    def _start(self, exchange: Exchange, data: bytes, trailers: Headers | None) -> None:
        request = exchange.request
        # Without a body of its own where there is none: a copy tells no length that the original does not.
        body = EMPTY if request.body is EMPTY else Whole(data, None if trailers is None else trailers.copy())
        copy = request.replace(headers=request.headers.copy(), body=body)
        # The copy may outlive the exchange, so it must not hold the client's stream.
        connection = replace(exchange.connection, stream=_NoStream())
        # What balancers and retries say of the exchange that a task serves is not to be said of the original.
        self._context.run(self._nursery.start_soon, self._send, copy, connection)

    async def _send(self, request: Request, connection: Connection) -> None:
        result: _Result = "timeout"
        try:
            with trio.move_on_after(self._config.timeout):
                await self._backend(Exchange(request, _drop, connection))
                result = "sent"
        except Exception:  # whatever it is, it is the copy's alone: nobody waits for it
            result = "failed"
        finally:
            self._flying -= 1
        self._results[result].value += 1


async def _drop(response: Response) -> None:
    """Take an answer to its end, so that its connection can be used again, and keep nothing."""
    while await response.body.pull():
        pass


class _Tee(Passing):
    """A body that keeps what passes, up to a limit, and tells when its end has passed."""

    __slots__ = ("_kept", "_left", "_tell", "ended", "too_large")

    def __init__(self, body: Body, limit: int, tell: Callable[[bytes, Headers | None], None]) -> None:
        super().__init__(body)
        self._kept: list[bytes] = []
        self._left = limit
        self._tell = tell
        self.ended = False
        self.too_large = False

    def passed(self, chunk: bytes) -> None:
        """Keep it, or tell."""
        if not chunk:
            if not self.ended and not self.too_large:
                self.ended = True
                self._tell(b"".join(self._kept), self.trailers)
                self._kept.clear()
        elif not self.too_large:
            self._left -= len(chunk)
            if self._left < 0:
                self.too_large = True
                self._kept.clear()
            else:
                self._kept.append(chunk)


class _NoStream(trio.abc.HalfCloseableStream):
    """The stream of a copy, which no client holds the other end of."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Raise ClosedResourceError."""
        raise trio.ClosedResourceError("a mirrored request has no client")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Raise ClosedResourceError."""
        raise trio.ClosedResourceError("a mirrored request has no client")

    async def wait_send_all_might_not_block(self) -> None:
        """Raise ClosedResourceError."""
        raise trio.ClosedResourceError("a mirrored request has no client")

    async def send_eof(self) -> None:
        """Raise ClosedResourceError."""
        raise trio.ClosedResourceError("a mirrored request has no client")

    async def aclose(self) -> None:
        """Do nothing: there is nothing open."""
        await trio.lowlevel.checkpoint()
