"""In virtual time, 50 endpoints with long-tailed latencies, one slow and one erring: what each way to pick makes of it."""

import json
from pathlib import Path

import pytest

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


def test_the_page_shows_these_figures(runs) -> None:
    shown = json.loads(FIGURES.read_text())
    for name, run in runs.items():
        # Trio takes the tasks of one moment in any order, so that two runs differ a little.
        assert shown[name]["p99"] == pytest.approx(run.p99, rel=0.25)
        assert shown[name]["slow"] == pytest.approx(run.slow, abs=0.025)
