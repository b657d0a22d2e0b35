"""Two requests for one answer: what :class:`~linkerd_proxy.retry.hedge.Hedge` does with one exchange."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import trio

from linkerd_proxy.core.attempt import Attempt, close_attempt, join_attempt
from linkerd_proxy.core.message import EMPTY, Request, Response
from linkerd_proxy.core.notes import current_notes
from linkerd_proxy.core.stack import Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.metrics.registry import Counter
from linkerd_proxy.retry.budget import Account
from linkerd_proxy.retry.peek import peek
from linkerd_proxy.retry.plan import Plan
from linkerd_proxy.retry.replay import Replay

__all__ = ["Course", "Race"]

# As with Retry.
_PEEKED = 16384  # bytes
_PEEK = 0.01  # seconds


@dataclass(frozen=True, slots=True)
class Course:
    """What all races of one opened layer share."""

    inner: Service[Exchange]
    account: Account
    plan: Plan
    requests: Counter
    wins: Counter
    overflow: Counter


class _Runner:
    """One of the two requests."""

    __slots__ = ("error", "headed", "race", "running", "scope", "started")

    def __init__(self, race: Race) -> None:
        self.race: Race = race
        self.scope: trio.CancelScope = trio.CancelScope()
        self.started: bool = False
        self.running: bool = False
        self.error: Exception | None = None
        self.headed: float | None = None

    async def respond(self, response: Response) -> None:
        """Answer, unless the other one has."""
        await self.race.answer(self, response)


class Race:
    """One exchange, asked once or twice.

    Args:
        exchange: What the client asked, and how it is answered.
        course: What the layer has.
        limit: Bytes of a streaming body that are kept.
    """

    __slots__ = ("_course", "_exchange", "_first", "_last", "_replay", "_second", "_winner")

    def __init__(self, exchange: Exchange, course: Course, limit: int) -> None:
        self._course = course
        self._exchange = exchange
        body = exchange.request.body
        self._replay = None if body is EMPTY else Replay(body, limit)
        self._first = self._last = _Runner(self)
        self._second = _Runner(self)
        self._winner: _Runner | None = None

    async def run(self, delay: float, record: Callable[[float], None] | None) -> None:
        """Ask, and ask again after ``delay`` seconds without an answer; ``record`` is told how long its head took.

        Raises what the winner raised, or else what the last one did.
        """
        began = trio.current_time()
        first, second = self._first, self._second
        attempt, token = join_attempt()
        self._course.account.pay(attempt, began)
        attempt.spare = True  # the second request makes up for a first one that finds no answer
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ask_again, delay, attempt)
                with first.scope:
                    await self._ask(first)
                if not second.started:
                    second.scope.cancel()  # what failed at once is for Retry to repeat
        finally:
            close_attempt(token)
        decisive = self._winner or self._last
        if record is not None and decisive.headed is not None:
            record(decisive.headed - began)
        if decisive.error is not None:
            raise decisive.error

    async def _ask_again(self, delay: float, attempt: Attempt) -> None:
        with self._second.scope:
            await trio.sleep(delay)
            course = self._course
            if self._winner is not None or not self._first.running:
                return
            if self._replay is not None and not self._replay.complete:
                return
            if not course.account.withdraw():
                course.overflow.value += 1
                return
            course.requests.value += 1
            notes = current_notes()
            if notes is not None:
                notes.retries += 1
            attempt.number += 1
            attempt.spare = False
            await self._ask(self._second)

    async def _ask(self, runner: _Runner) -> None:
        runner.started = runner.running = True
        try:
            await self._course.inner(Exchange(self._request(runner), runner.respond, self._exchange.connection))
        except Exception as error:  # it is raised where both have ended, unless the other one does better
            runner.error = error
        finally:
            runner.running = False
            self._last = runner

    def _request(self, runner: _Runner) -> Request:
        request = self._exchange.request
        replay = self._replay
        return request if replay is None else request.replace(body=replay.body())

    async def answer(self, runner: _Runner, response: Response) -> None:
        """Hand on the first good answer, or the last of two that are bad."""
        other = self._second if runner is self._first else self._first
        if not response.is_final:
            if not self._second.started:  # else it is not clear yet whose they are
                await self._exchange.respond(response)
            return
        if self._winner is not runner:
            response, failed = await self._judge(response)
            if self._winner is not None:
                await trio.sleep_forever()  # the other one has won meanwhile, and cancels this
            if failed and other.running:
                return
            runner.headed = trio.current_time()
            self._winner = runner
            other.scope.cancel()
            if runner is self._second:
                self._course.wins.value += 1
            if self._replay is not None:
                self._replay.release()
        await self._exchange.respond(response)

    async def _judge(self, response: Response) -> tuple[Response, bool]:
        plan = self._course.plan
        if response.status in plan.statuses:
            return response, True
        if plan.grpc and self._exchange.request.is_grpc:
            response, status = await peek(response, _PEEKED, _PEEK)
            return response, status in plan.grpc
        return response, False

    def __repr__(self) -> str:
        state = "answered" if self._winner is not None else "asked twice" if self._second.started else "asked"
        return f"<Race for {self._exchange.request!r}, {state}>"
