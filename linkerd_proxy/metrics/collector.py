"""A collector that speaks OTLP over HTTP: sending it one request, again if it says so."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import trio

from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.core.message import Request, Response, Whole
from linkerd_proxy.core.own import own_connection
from linkerd_proxy.core.stack import Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import BadGateway, NotAnswered, ResponseTimeout
from linkerd_proxy.headers import Headers

__all__ = ["Collector"]

_BACKOFF = Backoff(1.0, 30.0, 0.5)
_AGAIN = frozenset({429, 502, 503, 504})  # OTLP specification, "Retryable Response Codes"
_ANSWER = 65536  # bytes of a collector's answer that are read; own figure


class Collector:
    """Asks one collector.

    Args:
        service: What asks it.
        authority: The host to ask for.
        path: Where it takes what is sent.
        headers: Sent along, for example an API key.
        timeout: Seconds for an answer.
        tries: How often it is asked at most, while it says that it can't take it now.
        dice: For the jitter of retries.
        on_error: Called for each try that failed.
    """

    __slots__ = ("_dice", "_headers", "_on_error", "_path", "_service", "_timeout", "_tries", "authority")

    def __init__(
        self,
        service: Service[Exchange],
        *,
        authority: str,
        path: str,
        headers: Mapping[str, str],
        timeout: float,
        tries: int,
        dice: random.Random,
        on_error: Callable[[], None],
    ) -> None:
        self.authority: str = authority
        self._service = service
        self._path = path
        self._headers = headers
        self._timeout = timeout
        self._tries = tries
        self._dice = dice
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
        text = answers[0].headers.get("retry-after") or ""
        return answers[0].status, min(60.0, float(text)) if text.isascii() and text.isdigit() else 0.0
