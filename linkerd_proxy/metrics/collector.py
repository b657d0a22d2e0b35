"""A collector that speaks OTLP over HTTP: how it is reached, and sending it one request, again if it says so."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import trio

from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.core.message import Request, Response, Whole
from linkerd_proxy.core.own import own_connection
from linkerd_proxy.core.pushback import retry_after_of
from linkerd_proxy.core.stack import Service, Stack
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import BadGateway, InvalidConfiguration, NotAnswered, ResponseTimeout
from linkerd_proxy.headers import Headers

__all__ = ["Collecting", "Collector"]

_NOTHING: Mapping[str, str] = MappingProxyType({})

_BACKOFF = Backoff(1.0, 30.0, 0.5)
_AGAIN = frozenset({429, 502, 503, 504})  # OTLP specification, "Retryable Response Codes"
_ANSWER = 65536  # bytes of a collector's answer that are read; own figure


@dataclass(frozen=True, slots=True, repr=False)
class Collecting:
    """How a collector is reached, and who tells it: what exports of spans and of metrics have in common.

    Args:
        stack: What asks the collector.
        authority: The host to ask for.
        path: Where the collector takes what is sent.
        service: What this proxy is called there.
        resource: Further attributes of it.
        headers: Sent along, for example an API key. They are no part of the ``repr``.
        batch: How many are sent at once, at most.
        interval: Seconds between what is sent.
        timeout: Seconds that the collector has for its answer.
        dice: For the jitter of retries.
    """

    stack: Stack[Exchange]
    authority: str = "localhost:4318"
    path: str = "/"
    service: str = "linkerd-proxy"
    resource: Mapping[str, str] = field(default_factory=lambda: _NOTHING, hash=False)
    headers: Mapping[str, str] = field(default_factory=lambda: _NOTHING, hash=False, repr=False)
    batch: int = field(default=1000, kw_only=True)
    interval: float = field(default=10.0, kw_only=True)
    timeout: float = field(default=10.0, kw_only=True)
    dice: random.Random = field(default_factory=random.Random, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.batch < 1:
            raise InvalidConfiguration(f"{name}(batch={self.batch!r}): give at least 1")
        for key in ("interval", "timeout"):
            if not 0 < getattr(self, key) < math.inf:
                raise InvalidConfiguration(f"{name}({key}={getattr(self, key)!r}): give seconds greater than 0")

    def attributes(self) -> dict[str, str]:
        """Return what is told of this proxy."""
        return {"service.name": self.service, **self.resource}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.stack!r}, authority={self.authority!r}, service={self.service!r})"


class Collector:
    """Asks one collector.

    Args:
        service: What asks it.
        way: How it is asked.
        tries: How often it is asked at most, while it says that it can't take it now.
        on_error: Called for each try that failed.
    """

    __slots__ = ("_dice", "_headers", "_on_error", "_path", "_service", "_timeout", "_tries", "authority")

    def __init__(
        self, service: Service[Exchange], way: Collecting, *, tries: int, on_error: Callable[[], None]
    ) -> None:
        self.authority: str = way.authority
        self._service = service
        self._path = way.path
        self._headers = way.headers
        self._timeout = way.timeout
        self._tries = tries
        self._dice = way.dice
        self._on_error = on_error

    async def send(self, data: bytes) -> Exception | None:
        """Send one request; return None once it was taken, or why it was not."""
        failure: Exception | None = None
        for number in range(1, self._tries + 1):
            try:
                status, wait = await self._ask(data)
                failure = BadGateway(f"the collector answered with status {status}", layer="Otlp")
            except Exception as error:  # whatever fails there is no affair of those whom it tells of
                status, wait, failure = 0, 0.0, unwrapped(error)
            if 200 <= status < 300:
                return None
            self._on_error()
            if (status and status not in _AGAIN) or number == self._tries:
                break
            await trio.sleep(max(wait, _BACKOFF.seconds(number, self._dice)))
        return failure

    async def _ask(self, data: bytes) -> tuple[int, float]:
        """Send once; return the collector's status, and the seconds that it wants to be left alone."""
        headers = Headers([("content-type", "application/x-protobuf"), *self._headers.items()])
        request = Request("POST", self._path, headers, Whole(data), authority=self.authority)
        answers: list[Response] = []

        async def respond(response: Response) -> None:
            if response.is_final:
                answers.append(response)
                size = 0
                while size < _ANSWER and (chunk := await response.body.pull()):
                    size += len(chunk)

        with trio.move_on_after(self._timeout) as scope:
            await self._service(Exchange(request, respond, own_connection()))
        if scope.cancelled_caught:
            raise ResponseTimeout("the collector did not answer", layer="Otlp", waited=self._timeout)
        if not answers:
            raise NotAnswered("the collector's stack did not answer", layer="Otlp")
        return answers[0].status, min(60.0, retry_after_of(answers[0].headers) or 0.0)
