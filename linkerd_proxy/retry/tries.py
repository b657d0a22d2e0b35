"""One exchange under :class:`~linkerd_proxy.retry.retry.Retry`: its tries, one after the other."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable
from dataclasses import dataclass

import trio

from linkerd_proxy.core.attempt import close_attempt, open_attempt
from linkerd_proxy.core.background import unwrapped
from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.core.classify import BROKEN
from linkerd_proxy.core.expiry import Expiry, Limited
from linkerd_proxy.core.message import EMPTY, Request, Response, Whole
from linkerd_proxy.core.notes import current_notes
from linkerd_proxy.core.pushback import grpc_pushback_of, retry_after_of
from linkerd_proxy.core.stack import Service
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.errors import AlreadyAnswered, ResponseTimeout
from linkerd_proxy.headers import Headers
from linkerd_proxy.metrics.registry import Counter
from linkerd_proxy.retry.budget import Account
from linkerd_proxy.retry.grpc_timeout import format_grpc_timeout, parse_grpc_timeout
from linkerd_proxy.retry.peek import peek
from linkerd_proxy.retry.plan import UNSENT, Plan
from linkerd_proxy.retry.replay import Replay

__all__ = ["Counters", "Means", "Tries"]

_DRAINED = 65536  # bytes of an answer that is thrown away; own figure: more is not worth a kept connection
_PEEKED = 16384  # bytes of a gRPC answer; own figure: an answer that failed has hardly any
_INFORMED = 16  # 1xx that may come before an answer, however many tries it takes (core.work.Exchange)


@dataclass(frozen=True, slots=True)
class Counters:
    """What is counted, in Linkerd's names."""

    requests: Counter
    successes: Counter
    limit_exceeded: Counter
    overflow: Counter
    retried: Counter
    no_budget: Counter
    body: Counter
    pushback: Counter


@dataclass(frozen=True, slots=True)
class Means:
    """What all exchanges of one opened layer share."""

    inner: Service[Exchange]
    account: Account
    backoff: Backoff
    dice: random.Random
    counters: Counters
    peek: float
    patience: float
    expiry: Expiry | None


class Tries(Exchange):
    """The tries of one exchange; for the layers inside it is the exchange, with the request of the try under way.

    Args:
        exchange: What the client asked, and how it is answered.
        request: What to ask: the exchange's request, without what was meant for the proxy.
        plan: When to try again.
        means: What the layer has.
        limit: Bytes of a streaming body that are kept.
        now: When it begins.
    """

    __slots__ = (
        "_again",
        "_answered",
        "_asked",
        "_began",
        "_continued",
        "_informed",
        "_limit",
        "_means",
        "_number",
        "_plan",
        "_replay",
        "_resume_at",
        "_send",
    )

    request: Request
    connection: Connection

    def __init__(self, exchange: Exchange, request: Request, plan: Plan, means: Means, limit: int, now: float) -> None:
        self.connection = exchange.connection
        self._send = exchange.respond
        self._asked = request
        self._plan = plan
        self._means = means
        self._number = 0
        self._again = False
        self._answered = False
        self._informed = 0
        self._continued = False
        self._began = now
        self._resume_at = self._began
        self._limit: Limited | trio.CancelScope | None = None
        self._replay: Replay | None = None
        body = request.body
        if body is EMPTY:
            self.request = request
        else:
            # A tunnel's bytes are never sent twice: only while none was taken may it be tried again.
            self._replay = replay = Replay(body, 0 if request.wants_tunnel else limit, self._make_last)
            self.request = request if isinstance(body, Whole) else request.replace(body=replay.body())

    async def run(self) -> None:
        """Try until an answer has gone, or no further try is to be made.

        Raises what the last try raised.
        """
        attempt, token = open_attempt()
        now = self._began
        self._means.account.pay(attempt, now)
        try:
            while True:
                attempt.number = self._number
                attempt.spare = spare = self._may_repeat(now)
                try:
                    if spare and self._plan.timeout is not None:
                        await self._try(self._plan.timeout)
                    else:
                        await self._means.inner(self)
                except Exception as error:
                    if self._answered or not self._goes_on_after(unwrapped(error)):
                        raise
                else:
                    if not self._again:
                        return
                await trio.sleep_until(self._resume_at)
                now = trio.current_time()
                self._go_on()
        finally:
            close_attempt(token)

    def _go_on(self) -> None:
        self._number += 1
        self._again = False
        self.request = self._ask()
        self._means.counters.requests.value += 1
        notes = current_notes()
        if notes is not None:
            notes.retries += 1
            notes.failure = ""  # that of the try before is none of the exchange any more

    async def _try(self, timeout: float) -> None:
        """Make a try that may take so long until its answer, since another can make up for it."""
        expiry = self._means.expiry
        limit: Limited | trio.CancelScope
        if expiry is not None and expiry.seconds == timeout:
            limit = expiry.limiting()
        else:  # the request's own wish
            limit = trio.CancelScope(relative_deadline=timeout)
        self._limit = limit
        with limit:
            try:
                await self._means.inner(self)
            finally:
                self._make_last()
        if limit.cancelled_caught:
            raise ResponseTimeout(
                f"try {self._number + 1} had no answer",
                layer="Retry",
                waited=timeout,
                remedy="look for what keeps the upstream, or raise Retry(timeout=...)",
            )

    def _ask(self) -> Request:
        """Return the request of a further try."""
        request = self._asked
        headers = request.headers
        if request.is_grpc:
            headers = headers.copy()
            headers.set("grpc-previous-rpc-attempts", str(self._number))
            self._shorten(headers)
        return request.replace(headers=headers, body=EMPTY if self._replay is None else self._replay.body())

    def _shorten(self, headers: Headers) -> None:
        """Take from a call's ``grpc-timeout`` what the tries before have used up."""
        text = headers.get("grpc-timeout")
        seconds = None if text is None else parse_grpc_timeout(text)
        if seconds is not None:
            left = max(0.0, seconds - (trio.current_time() - self._began))
            headers.set("grpc-timeout", format_grpc_timeout(left))

    # --- answers -------------------------------------------------------------------------------

    def respond(self, response: Response) -> Awaitable[None]:
        """Hand an answer on, unless another try is to be made in its place."""
        plan = self._plan
        if (
            not self._number
            and response.status >= 200
            and response.status not in plan.statuses
            and not plan.grpc
            and not self._again
            and (self._limit is None or not self._is_late())
        ):
            self._settle()
            return self._send(response)  # what nearly all answers are, for one coroutine less
        return self._respond(response)

    async def _respond(self, response: Response) -> None:
        if self._again:
            raise AlreadyAnswered(f"{response!r} comes after the final response", layer="Retry")
        if not response.is_final:
            await self._inform(response)
            return
        plan = self._plan
        if not self._answered and (response.status in plan.statuses or plan.grpc):
            judged = await self._judge(response)
            if judged is None:
                return
            response = judged
        elif self._number and not self._answered:
            self._means.counters.successes.value += 1
        if self._is_late():
            await trio.lowlevel.checkpoint_if_cancelled()  # too late by a hair, and nothing has gone yet
        self._settle()
        await self._send(response)

    async def _inform(self, response: Response) -> None:
        """Pass a 1xx on: one 100 at most, and no more of any kind than may come before one answer."""
        if response.status == 100:
            if self._continued:
                return
            self._continued = True
        self._informed += 1
        if self._number == 0 or self._informed <= _INFORMED:
            await self._send(response)

    def _is_late(self) -> bool:
        """Whether the time of this try was up before its answer began to go."""
        limit = self._limit
        if limit is None or self._answered:
            return False
        return limit.has_expired if isinstance(limit, Limited) else limit.cancel_called

    def _settle(self) -> None:
        """Make this try the last: its answer begins to go."""
        if self._limit is not None and not self._answered:
            self._make_last()
        self._answered = True
        if self._replay is not None:
            self._replay.release()

    async def _judge(self, response: Response) -> Response | None:
        """Return the answer to hand on; None if it was thrown away, for another try."""
        plan, request = self._plan, self._asked
        grpc = request.is_grpc
        failed = response.status in plan.statuses
        if grpc and not failed and plan.grpc:
            response, status = await peek(response, _PEEKED, self._means.peek)
            failed = status in plan.grpc
        if not failed:
            if self._number:
                self._means.counters.successes.value += 1
            return response
        if not plan.repeats(request) or not self._withdraw(_pushback(response, grpc=grpc)):
            return response
        self._again = True
        await self._drain(response)
        return None

    async def _drain(self, response: Response) -> None:
        """Take in what is left of an answer that nobody gets, so that its connection can be used again.

        It takes no time of its own: when the next try is due, the rest is given up with its stream or connection.
        """
        size = 0
        with trio.CancelScope(deadline=self._resume_at):
            while size <= _DRAINED and (chunk := await response.body.pull()):
                size += len(chunk)

    # --- going on ------------------------------------------------------------------------------

    def _goes_on_after(self, error: Exception) -> bool:
        if self._again:  # the answer was thrown away already; what broke after that must not be a bug
            return isinstance(error, (*UNSENT, *BROKEN))
        return self._plan.retries(error, self._asked) and self._withdraw(0.0)

    def _may_repeat(self, now: float) -> bool:
        """Whether this try may be followed by another one even if the upstream got it: it is not the last."""
        return (
            self._number < self._plan.limit
            and self._plan.repeats(self._asked)
            and not (self._replay is not None and self._replay.lost)
            and self._means.account.covers(now)
        )

    def _make_last(self) -> None:
        """Let the try under way take its time: its answer goes, or its request's body has outgrown what is kept."""
        limit = self._limit
        if isinstance(limit, Limited):
            limit.lift()
        elif limit is not None:
            limit.deadline = math.inf

    def _withdraw(self, wait: float) -> bool:
        """Say whether there may be one more try, after at least ``wait`` seconds, and pay for it."""
        means = self._means
        counters = means.counters
        if self._number >= self._plan.limit:
            if self._plan.limit:
                counters.limit_exceeded.value += 1
            return False
        if self._replay is not None and self._replay.lost:
            counters.body.value += 1
            return False
        if wait > means.patience:
            counters.pushback.value += 1
            return False
        if not means.account.withdraw():
            counters.no_budget.value += 1
            counters.overflow.value += 1
            return False
        counters.retried.value += 1
        self._resume_at = trio.current_time() + max(wait, means.backoff.seconds(self._number + 1, means.dice))
        return True

    def __repr__(self) -> str:
        state = "answered" if self._answered else f"try {self._number + 1} of {self._plan.limit + 1}"
        return f"<Tries of {self._asked!r}, {state}>"


def _pushback(response: Response, *, grpc: bool) -> float:
    """Return the seconds for which the upstream wants no further try: 0 if it says nothing, infinity for never."""
    seconds = grpc_pushback_of(response) if grpc else None
    if seconds is None:
        seconds = retry_after_of(response.headers)
    return seconds or 0.0
