"""What a balancer costs per request: ``python -m tests.bench.balancing``. Prints microseconds of CPU, with and without."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from linkerd_proxy.balance.balance import Balance
from linkerd_proxy.balance.picks import LeastRequest, P2c, Pick, RoundRobin
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.discover.static import Static
from linkerd_proxy.testing import memory_connection

_REQUESTS = 100_000
_RESPONSE = Response()


@dataclass(frozen=True, slots=True)
class Leaf(Stack[Exchange]):
    """Answers at once."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Exchange]]:
        """Yield the service."""

        async def service(exchange: Exchange) -> None:
            await exchange.respond(_RESPONSE)

        yield service


async def _cost(stack: Stack[Exchange]) -> float:
    _, connection = memory_connection()

    async def respond(_: Response) -> None:
        pass

    exchange = Exchange(Request(), respond, connection)
    best = float("inf")
    async with opened(stack) as service:
        await service(exchange)
        for _ in range(5):
            started = time.process_time()
            for _ in range(_REQUESTS):
                await service(exchange)
            best = min(best, time.process_time() - started)
    return best / _REQUESTS * 1e6


async def main() -> None:
    """Print the table."""
    bare = await _cost(Leaf())
    sys.stdout.write(f"{'bare':>14} {bare:6.2f} us\n")
    static = Static(*(f"10.0.0.{number}:80" for number in range(1, 11)))
    picks: list[Pick] = [P2c(), LeastRequest(), RoundRobin()]
    for pick in picks:
        cost = await _cost(Balance(static, lambda _: Leaf(), pick=pick))
        sys.stdout.write(f"{type(pick).__name__:>14} {cost - bare:6.2f} us more\n")


if __name__ == "__main__":
    trio.run(main)
