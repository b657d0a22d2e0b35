"""In virtual time, 50 endpoints with long-tailed latencies, one slow and one erring: what each way to pick makes of it."""

import json
import random
from pathlib import Path

import pytest
import trio

from linkerd_proxy.balance.balance import Balance
from linkerd_proxy.balance.picks import P2c
from linkerd_proxy.core.stack import opened
from tests.balance.origins import Fleet, ask, known
from tests.bench.simulation import HURT, PICKS, simulate

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs" / "explanation" / "balancing.json"


@pytest.fixture(scope="module")
def runs():
    return {name: simulate(pick) for name, pick in PICKS.items()}


def test_the_slow_endpoint_loses_its_share_within_five_seconds(runs) -> None:
    slow = runs["P2C, peak EWMA"].slow
    assert all(share < 0.02 for share in slow[int(HURT) + 5 :])
    assert max(slow[int(HURT) + 1 :]) < 0.02  # within one, in fact
    assert sum(runs["round robin"].slow[int(HURT) :]) / 15 == pytest.approx(0.02, abs=0.003)


def test_the_tail_is_shorter_than_those_of_round_robin_and_least_request(runs) -> None:
    ours = runs["P2C, peak EWMA"]
    for name in ("round robin", "least request"):
        assert ours.p999 < runs[name].p999
        assert ours.p99 < runs[name].p99 * 1.1
        assert ours.failed < runs[name].failed / 3


@pytest.mark.parametrize(
    ("pick", "failing", "least", "most"),
    [
        (P2c(), 0.01, 0.6, 1.1),  # now and then: it keeps most of its share
        (P2c(), 0.5, 0, 0.05),
        (P2c(), 1, 0, 0.02),
        (P2c(penalty=5, peak=True), 0.01, 0, 0.3),  # what one failure in a hundred makes of Linkerd's
        (P2c(penalty=0), 1, 1.3, 3),  # failing is quick
    ],
)
async def test_an_endpoint_loses_work_in_the_measure_in_which_it_fails(
    pick, failing, least, most, autojump_clock
) -> None:
    dice = random.Random(1)
    fleet = Fleet()

    async def flaky(_) -> int:
        if dice.random() < failing:
            await trio.sleep(0.001)
            return 500
        return await well(_)

    async def well(_) -> int:
        await trio.sleep(dice.lognormvariate(-4.605, 0.6))
        return 200

    fleet.behaviour = {1: flaky, 2: well, 3: well}
    stack = Balance(known(1, 2, 3), fleet.replica, pick=pick, breaker=None, dice=dice)
    async with opened(stack) as service, trio.open_nursery() as nursery:
        for _ in range(90 * 60):  # 90 a second
            nursery.start_soon(ask, service)
            await trio.sleep(dice.expovariate(90))
    assert least <= 3 * fleet.served[1] / sum(fleet.served.values()) <= most


def test_the_page_shows_these_figures(runs) -> None:
    shown = json.loads(FIGURES.read_text())
    for name, run in runs.items():
        # Trio takes the tasks of one moment in any order, so that two runs differ a little.
        assert shown[name]["p99"] == pytest.approx(run.p99, rel=0.25)
        assert shown[name]["slow"] == pytest.approx(run.slow, abs=0.025)
