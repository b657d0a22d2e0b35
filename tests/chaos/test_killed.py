"""``kill -9`` of backends under load: idempotent requests notice nothing, and no other is delivered twice."""

from __future__ import annotations

import os
import random
import signal

import pytest
import trio

from linkerd_proxy import Balance, Budget, Client, Connect, P2c, Retry, RoundRobin, Static, Timeout, opened
from linkerd_proxy.balance.statistics import current_balancers
from tests.chaos.fleet import Load, fleet, front, loading, report
from tests.patience import PATIENCE

KILLS = int(os.environ.get("LINKERD_PROXY_TEST_KILLS", "0"))
"""How many: some by default. Who gives a number measures on a quiet machine, where the delay counts too."""
RATE = 200  # requests a second


def picked(number: int) -> int:
    (balancer,) = current_balancers()
    return balancer.statistics().endpoints[number].picked


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_a_killed_backend_costs_no_idempotent_request(tmp_path, version) -> None:
    pick = P2c() if version == "1.1" else RoundRobin()
    dice = random.Random(7)
    kind = {"1.1": "http1", "2": "http2"}[version]
    away: list[tuple[float, float]] = []
    late: list[tuple[int, float]] = []
    kills = KILLS or 3
    with trio.fail_after(2 * PATIENCE + 3 * kills):
        async with fleet(kind, tmp_path / "log", rest=None) as servers:
            balance = Balance(
                Static(*servers.addresses), lambda e: Client() | Connect(e.address), pick=pick, dice=random.Random(1)
            )
            async with (
                front(Timeout(PATIENCE) | Retry(Budget(1, 1000), limit=3) | balance) as address,
                opened(Client() | Connect(address)) as client,
            ):
                load = Load(client, version, ("GET", "GET", "GET", "POST"))
                async with loading(load, RATE):
                    await load.wait_answered(RATE // 4)
                    for kill in range(kills):
                        number = kill % 3
                        killed = trio.current_time()
                        servers.signal(number, signal.SIGKILL)
                        await load.wait_answered(RATE)
                        before, since = picked(number), trio.current_time()
                        await load.wait_answered(RATE // 4)
                        late.append((picked(number) - before, trio.current_time() - since))
                        away.append((killed, trio.current_time()))
                        await servers.start_again(number)
                        await load.wait_answered(dice.randrange(RATE // 10, RATE // 3))
        got = servers.got()
    p99 = load.percentile(0.99, [killed for killed, _ in away], 1.0)
    figures = f"{load.outcomes}, p99 {p99 * 1000:.0f} ms, picked when it was out {late}"
    report(figures)
    assert set(load.outcomes["GET"]) == {"200"}, figures
    # Out of rotation within a second's requests: a probe, and one more for each second of backoff that has passed.
    assert all(times <= 2 + seconds for times, seconds in late), figures
    if KILLS:
        assert p99 <= 0.3, figures
    # A POST that was sent to one that died is answered with 502, and never sent again. No other fails.
    assert {outcome.split()[0] for outcome in load.outcomes["POST"]} <= {"200", "502"}, figures
    for began, ended in load.failed.values():
        assert any(ended >= killed and began <= back for killed, back in away), figures
    posts = {line: times for line, times in got.items() if line.startswith("POST")}
    assert max(posts.values()) == 1
    assert {f"POST /ok/{number + 1}" for number in range(3, load.count, 4)} - set(posts) <= set(load.failed)
