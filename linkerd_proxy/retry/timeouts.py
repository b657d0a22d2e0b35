"""The deadlines of an exchange, each for what it is about: all of it, the answer, and silence."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace

import trio

from linkerd_proxy.core.expiry import Expiry, open_expiry
from linkerd_proxy.core.message import Body, Request, Response, Whole
from linkerd_proxy.core.passing import Passing
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.duration import parse_duration
from linkerd_proxy.errors import IdleTimeout, InvalidConfiguration, ProxyError, ResponseTimeout
from linkerd_proxy.headers import Headers, RawHeaders
from linkerd_proxy.retry.grpc_timeout import format_grpc_timeout, parse_grpc_timeout

__all__ = ["Timeouts"]

_HEADERS = {b"l5d-timeout": "request", b"l5d-request-timeout": "request", b"l5d-response-timeout": "response"}


@dataclass(frozen=True, slots=True, repr=False)
class Timeouts(Layer[Exchange, Exchange]):
    """Gives exchanges deadlines, as Linkerd's routes have them. Whichever comes first cancels everything inside.

    A client that has no answer yet gets 504 from ``Rescue`` (gRPC: DEADLINE_EXCEEDED); one that has a part of it sees
    its message aborted.

    Args:
        request: Seconds for all of it, from the request's head to the answer's last byte.
        response: Seconds from the request's last byte to the answer's: a slow upload is not the upstream's fault.
        idle: Seconds in which neither a head nor any content moves, in either direction.
        grpc: Whether a call's own ``grpc-timeout`` counts. The sooner of the two deadlines is what the upstream is
            told.
        headers: Whether a request's ``l5d-timeout`` (the same as ``l5d-request-timeout``) and ``l5d-response-timeout``
            count, in the place of what is configured. They are removed in any case.

    None means no such deadline. Tunnels have the deadline of ``request`` only; give them none.

    Serving raises:
        ResponseTimeout: if the deadline of the request or of the response expired.
        IdleTimeout: if nothing moved for too long.

    Source: linkerd2-proxy, linkerd/http/stream-timeouts; gRPC over HTTP/2, "Timeout".
    """

    request: float | None = None
    response: float | None = None
    idle: float | None = None
    grpc: bool = True
    headers: bool = False

    def __post_init__(self) -> None:
        for name in ("request", "response", "idle"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InvalidConfiguration(f"Timeouts({name}={value!r}): give seconds greater than 0, or None")

    @asynccontextmanager
    async def open(self, inner: Service[Exchange]) -> AsyncIterator[Service[Exchange]]:
        """Yield the live service."""
        shortest = min(self.request or math.inf, self.response or math.inf)
        configured = shortest < math.inf or self.idle is not None
        fixed = shortest < math.inf and self.idle is None
        async with open_expiry(shortest) if fixed else nullcontext() as expiry:

            def service(exchange: Exchange) -> Awaitable[None]:
                request = exchange.request
                own = self
                if _names_timeouts(request.headers.raw):
                    if self.headers:
                        own = _asked_by(self, request.headers)
                    request = _without_timeouts(request)
                    exchange = exchange.asking(request)
                if expiry is not None and own is self and self._is_plain(request):
                    return _limited(exchange, inner, self, expiry)
                asked = _call_deadline(request) if self.grpc and request.version == "2" else None
                if configured or asked is not None or own is not self:
                    return _Timed(exchange, own, asked).run(inner)
                return inner(exchange)

            yield service

    def _is_plain(self, request: Request) -> bool:
        """Whether a request is sent as soon as it is here, and has no deadline of its own: what most are."""
        return (
            isinstance(request.body, Whole)
            and not request.wants_tunnel
            and not (self.grpc and request.version == "2" and request.is_grpc)
        )


async def _limited(exchange: Exchange, inner: Service[Exchange], own: Timeouts, expiry: Expiry) -> None:
    """Serve a plain request, whose deadlines all count from now: the shortest is the one that counts."""
    with expiry.limiting() as limited:
        await inner(exchange)
    if limited.cancelled_caught:
        raise _late(own.request) if own.request == expiry.seconds else _late_answer(own.response)


class _Timed:
    """One exchange and its deadlines."""

    __slots__ = ("_exchange", "_idle", "_idle_at", "_own", "_request_at", "_response_at", "_scope", "_waited")

    def __init__(self, exchange: Exchange, own: Timeouts, asked: float | None) -> None:
        now = trio.current_time()
        limit = math.inf if own.request is None else own.request
        if asked is not None:
            limit = min(limit, asked)
        request = exchange.request
        if own.grpc and limit < math.inf and limit != asked and request.is_grpc:
            headers = request.headers.copy()
            headers.set("grpc-timeout", format_grpc_timeout(limit))
            exchange = exchange.asking(request.replace(headers=headers))
        self._exchange = exchange
        self._own = own
        self._waited = limit
        self._request_at = now + limit
        self._response_at = math.inf
        self._idle = None if request.wants_tunnel else own.idle
        self._idle_at = math.inf if self._idle is None else now + self._idle
        self._scope = trio.CancelScope()

    async def run(self, inner: Service[Exchange]) -> None:
        """Serve it, unless a deadline comes first."""
        exchange = self._exchange
        request = exchange.request
        own = self._own
        respond = exchange.respond if self._idle is None else self._respond
        if not request.wants_tunnel and (own.response is not None or self._idle is not None):
            if isinstance(request.body, Whole):
                self._sent()  # it goes with the head
            else:
                body = _Watched(request.body, self._moved, None if own.response is None else self._sent)
                request = request.replace(body=body)
        self._moved()
        with self._scope:
            await inner(Exchange(request, respond, exchange.connection))
        if self._scope.cancelled_caught:
            raise self._failure()

    async def _respond(self, response: Response) -> None:
        self._moved()
        if not isinstance(response.body, Whole):
            response = response.replace(body=_Watched(response.body, self._moved))
        await self._exchange.respond(response)
        self._moved()

    def _sent(self) -> None:
        """Let the answer's time begin: the request has been sent."""
        if self._own.response is not None and self._response_at == math.inf:
            self._response_at = trio.current_time() + self._own.response
            self._set()

    def _moved(self) -> None:
        """Take note that something moved."""
        if self._idle is not None:
            self._idle_at = trio.current_time() + self._idle
        self._set()

    def _set(self) -> None:
        self._scope.deadline = min(self._request_at, self._response_at, self._idle_at)

    def _failure(self) -> ProxyError:
        first = min(self._request_at, self._response_at, self._idle_at)
        if first == self._request_at:
            return _late(self._waited)
        if first == self._response_at:
            return _late_answer(self._own.response)
        return IdleTimeout("nothing moved in either direction", layer="Timeouts", waited=self._idle)


def _late(waited: float | None) -> ProxyError:
    return ResponseTimeout("the exchange was not complete", layer="Timeouts", waited=waited)


def _late_answer(waited: float | None) -> ProxyError:
    return ResponseTimeout("the answer to a request that was sent was not complete", layer="Timeouts", waited=waited)


class _Watched(Passing):
    """A body that tells when it moves, and when it has ended."""

    __slots__ = ("_ended", "_moved")

    def __init__(self, body: Body, moved: Callable[[], None], ended: Callable[[], None] | None = None) -> None:
        super().__init__(body)
        self._moved = moved
        self._ended = ended

    def passed(self, chunk: bytes) -> None:
        """Tell."""
        self._moved()
        if not chunk and self._ended is not None:
            self._ended()


def _call_deadline(request: Request) -> float | None:
    if not request.is_grpc:
        return None
    text = request.headers.get("grpc-timeout")
    return None if text is None else parse_grpc_timeout(text)


def _names_timeouts(raw: RawHeaders) -> bool:
    for name, _ in raw:  # noqa: SIM110  # on every request's way, where a generator costs as much again
        if name in _HEADERS:
            return True
    return False


def _asked_by(timeouts: Timeouts, headers: Headers) -> Timeouts:
    """Return the deadlines with what a request's headers say; what is malformed there says nothing."""
    found: dict[str, float] = {}
    for name, value in headers.raw:
        field = _HEADERS.get(name)
        if field is None:
            continue
        try:
            seconds = parse_duration(value.decode("latin-1"))
        except InvalidConfiguration:
            continue
        if seconds:  # no time at all is no wish that can be met
            found[field] = min(seconds, found.get(field, math.inf))
    return replace(
        timeouts, request=found.get("request", timeouts.request), response=found.get("response", timeouts.response)
    )


def _without_timeouts(request: Request) -> Request:
    return request.replace(headers=Headers.of([field for field in request.headers.raw if field[0] not in _HEADERS]))
