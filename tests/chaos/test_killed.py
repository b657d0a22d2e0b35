"""``kill -9`` of backends under load: idempotent requests notice nothing, and no other is delivered twice."""

from __future__ import annotations

import os
import random
import signal

import pytest
import trio

from linkerd_proxy import Balance, Client, Connect, P2c, Retry, RoundRobin, Static, Timeout, opened
from linkerd_proxy.balance.statistics import current_balancers
from tests.chaos.fleet import PATIENCE, Load, fleet, front, loading, report

KILLS = int(os.environ.get("LINKERD_PROXY_TEST_KILLS", "3"))
AWAY = 1.3  # seconds for which a killed one stays away


def picked(number: int) -> int:
    (balancer,) = current_balancers()
    return balancer.statistics().endpoints[number].picked


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_a_killed_backend_costs_no_idempotent_request(tmp_path, version) -> None:
    pick = P2c() if version == "1.1" else RoundRobin()
    dice = random.Random(7)
    kind = {"1.1": "http1", "2": "http2"}[version]
    moments: list[float] = []
    late: list[int] = []
    with trio.fail_after(2 * PATIENCE + 3 * KILLS):
        async with fleet(kind, tmp_path / "log", rest=AWAY) as servers:
            balance = Balance(
                Static(*servers.addresses), lambda e: Client() | Connect(e.address), pick=pick, dice=random.Random(1)
            )
            async with (
                front(Timeout(5) | Retry(timeout=0.5) | balance) as address,
                opened(Client() | Connect(address)) as client,
            ):
                load = Load(client, version, ("GET", "GET", "GET", "POST"))
                async with loading(load, 200):
                    await trio.sleep(0.3)
                    for kill in range(KILLS):
                        number = kill % 3
                        times = servers.started[number]
                        moments.append(trio.current_time())
                        servers.signal(number, signal.SIGKILL)
                        await trio.sleep(1)
                        before = picked(number)
                        await servers.wait_started(number, times + 1)
                        late.append(picked(number) - before)
                        await trio.sleep(0.1 + 0.2 * dice.random())
        got = servers.got()
    p99 = load.percentile(0.99, moments, 1.0)
    figures = f"{load.outcomes}, p99 {p99 * 1000:.0f} ms, picked after a second {late}"
    report(figures)
    assert set(load.outcomes["GET"]) == {"200"}, figures
    # Out of rotation within a second: a probe, perhaps two.
    assert max(late) <= 2, figures
    assert p99 <= 0.3, figures
    # A POST that was sent to one that died is answered with 502, and never sent again.
    assert {outcome.split()[0] for outcome in load.outcomes["POST"]} <= {"200", "502"}, figures
    assert len(load.failed) <= 5 * KILLS, figures
    posts = {line: times for line, times in got.items() if line.startswith("POST")}
    assert max(posts.values()) == 1
    assert {f"POST /ok/{number + 1}" for number in range(3, load.count, 4)} - set(posts) <= set(load.failed)
