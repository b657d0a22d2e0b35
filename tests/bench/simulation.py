"""Balancing simulated in virtual time: 50 endpoints with long-tailed latencies, one of them slow and one erring.

``python -m tests.bench.simulation docs/explanation`` writes the figures (JSON) and the plot (SVG) of the docs.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import trio
import trio.testing

from linkerd_proxy.balance.balance import Balance
from linkerd_proxy.balance.picks import LeastRequest, P2c, Pick, RoundRobin
from linkerd_proxy.core.endpoint import Endpoint
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.discover.static import Static
from linkerd_proxy.testing import memory_connection

ENDPOINTS = 50
SLOW, ERRING = 1, 2  # ports
RATE = 500.0  # requests a second
HURT = 5.0  # when the one becomes slow and the other begins to fail
SECONDS = 20.0
CAPACITY = 8  # requests that an endpoint works on at once; more wait, as in a real server
SLOWNESS = 50
PICKS: dict[str, Pick] = {
    "P2C, peak EWMA": P2c(),
    "least request": LeastRequest(),
    "round robin": RoundRobin(),
}


@dataclass
class Run:
    """What one simulated run showed, from ``HURT`` on.

    ``slow`` holds the slow endpoint's share of each second.
    """

    p50: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    failed: float = 0.0
    slow: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Server(Stack[Exchange]):
    port: int
    began: Counter[tuple[int, int]]
    dice: random.Random

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Exchange]]:
        room = trio.Semaphore(CAPACITY)

        async def service(exchange: Exchange) -> None:
            now = trio.current_time()
            self.began[int(now), self.port] += 1
            hurt = now >= HURT
            async with room:
                # Log-normal: a median of 10 ms, one in a hundred above 100 ms.
                seconds = self.dice.lognormvariate(-4.605, 1.0)
                if hurt and self.port == ERRING:
                    seconds /= 10  # failing is quick, which is what makes it attractive
                await trio.sleep(seconds * (SLOWNESS if hurt and self.port == SLOW else 1))
            await exchange.respond(Response(500 if hurt and self.port == ERRING else 200))

        yield service


async def _simulate(pick: Pick, seed: int) -> Run:
    dice = random.Random(seed)
    began: Counter[tuple[int, int]] = Counter()
    run = Run()
    failures = 0
    _, connection = memory_connection()

    def replica(endpoint: Endpoint) -> Stack[Exchange]:
        return _Server(endpoint.address.port, began, random.Random(f"{seed} {endpoint.address}"))

    async def ask(service: Service[Exchange]) -> None:
        nonlocal failures
        statuses: list[int] = []

        async def respond(response: Response) -> None:
            statuses.append(response.status)

        started = trio.current_time()
        await service(Exchange(Request(), respond, connection))
        if started >= HURT:
            run.latencies.append(trio.current_time() - started)
            failures += statuses[0] >= 500

    resolve = Static(*(f"10.0.0.1:{port}" for port in range(1, ENDPOINTS + 1)))
    # No breaker: what is compared is how they pick.
    stack = Balance(resolve, replica, pick=pick, breaker=None, dice=random.Random(seed))
    async with opened(stack) as service, trio.open_nursery() as nursery:
        while trio.current_time() < SECONDS:
            nursery.start_soon(ask, service)
            await trio.sleep(dice.expovariate(RATE))
    run.latencies.sort()
    for name, fraction in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
        setattr(run, name, run.latencies[int(len(run.latencies) * fraction)])
    run.failed = failures / len(run.latencies)
    for second in range(int(SECONDS)):
        total = sum(count for (when, _), count in began.items() if when == second)
        run.slow.append(began[second, SLOW] / total)
    return run


def simulate(pick: Pick, seed: int = 1) -> Run:
    """Return what a way to pick makes of the scenario. The same seed gives the same figures."""
    return trio.run(_simulate, pick, seed, clock=trio.testing.MockClock(autojump_threshold=0))


def plot(runs: dict[str, Run], path: Path) -> None:
    """Draw the latencies' tails and the slow endpoint's share."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "linkerd-proxy", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot as plt

    figure, (tails, share) = plt.subplots(1, 2, figsize=(9, 3.2))
    for (name, run), colour in zip(runs.items(), ("#2b6cb0", "#dd6b20", "#718096"), strict=True):
        count = len(run.latencies)
        ranks = [count * (1 - 10 ** (-step / 50)) for step in range(200)]
        points = [int(rank) for rank in ranks if rank < count - 1]
        tails.plot([1 / (1 - p / count) for p in points], [run.latencies[p] * 1000 for p in points], colour, label=name)
        share.plot([second + 0.5 for second in range(len(run.slow))], [100 * one for one in run.slow], colour)
    tails.set_xscale("log")
    tails.set_yscale("log")
    tails.set_xticks([2, 10, 100, 1000], ["p50", "p90", "p99", "p99.9"])
    tails.set_ylabel("latency, ms")
    tails.legend(frameon=False)
    share.axvline(HURT, color="#a0aec0", linestyle=":")
    share.set_xlabel("seconds")
    share.set_ylabel("share of the slow endpoint, %")
    for axis in (tails, share):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None}, transparent=True)
    plt.close(figure)


def main(directory: str) -> None:
    """Write ``balancing.json`` and ``balancing.svg``."""
    runs = {name: simulate(pick) for name, pick in PICKS.items()}
    figures = {name: asdict(run) for name, run in runs.items()}
    for found in figures.values():
        del found["latencies"]
    (Path(directory) / "balancing.json").write_text(json.dumps(figures, indent=1) + "\n")
    plot(runs, Path(directory) / "balancing.svg")


if __name__ == "__main__":
    main(sys.argv[1])
