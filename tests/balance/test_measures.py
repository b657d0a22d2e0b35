"""What is measured: latency estimates, success rates, hints of answers."""

import random
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.balance.breaker import Accrual, Breaker
from linkerd_proxy.balance.ewma import PeakEwma
from linkerd_proxy.balance.hints import hint_of
from linkerd_proxy.balance.states import STATES, TRANSITIONS
from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.core.message import Response
from linkerd_proxy.errors import InvalidConfiguration

# --- peak EWMA (linkerd2-proxy: linkerd/ewma) --------------------------------------------------


def test_a_slower_sample_replaces_the_estimate_at_once() -> None:
    ewma = PeakEwma(0.03, 10, now=0)
    ewma.sample(2.0, now=1)
    assert ewma.read(1) == 2.0


def test_faster_samples_move_it_by_the_time_that_has_passed() -> None:
    ewma = PeakEwma(1.0, 10, now=0)
    ewma.sample(0.1, now=10)
    assert ewma.read(10) == pytest.approx(exp(-1) * 1.0 + (1 - exp(-1)) * 0.1)


def test_it_fades_while_nothing_is_measured() -> None:
    ewma = PeakEwma(1.0, 10, now=0)
    assert ewma.read(10) == pytest.approx(exp(-1))
    assert ewma.read(0) == 1.0


def test_a_sample_slower_than_what_has_faded_is_a_peak() -> None:
    ewma = PeakEwma(1.0, 10, now=0)
    ewma.sample(0.5, now=10)  # more than 1/e
    assert ewma.read(10) == 0.5


def test_a_time_that_goes_back_counts_as_no_time() -> None:
    ewma = PeakEwma(1.0, 10, now=5)
    ewma.sample(0.1, now=3)
    assert (ewma.rtt, ewma.at) == (1.0, 5)
    ewma.sample(3.0, now=4)
    assert (ewma.rtt, ewma.at) == (3.0, 5)
    assert ewma.read(1) == 3.0


def test_no_decay_remembers_the_last_sample_only() -> None:
    ewma = PeakEwma(1.0, 0, now=0)
    ewma.sample(0.2, now=1)
    assert ewma.rtt == pytest.approx(0.2)
    assert ewma.read(1.001) == 0


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 5)), max_size=30))
def test_the_estimate_lies_between_nothing_and_the_largest_sample(samples) -> None:
    ewma, now, largest = PeakEwma(0.03, 10, now=0), 0.0, 0.03
    for rtt, elapsed in samples:
        now += elapsed
        largest = max(largest, rtt)
        ewma.sample(rtt, now)
        assert rtt * 0.999 <= ewma.read(now) <= largest * 1.001
        assert ewma.read(now + 1) <= ewma.read(now)


# --- the breaker (linkerd2-proxy: linkerd/app/outbound/src/http/breaker) -----------------------


def fed(breaker: Breaker, outcomes: str, step: float = 0.1):
    """Feed outcomes (``.`` success, ``x`` failure, ``l`` limited) and return the reason of the last one."""
    accrual, reason = Accrual(breaker), None
    for index, char in enumerate(outcomes):
        reason = accrual.add({".": "success", "x": "failure", "l": "limited"}[char], index * step)
    return reason


RATE = Breaker(consecutive=None, success_rate=0.8)
BOTH = Breaker(consecutive=3, success_rate=0.5)


@pytest.mark.parametrize(
    ("breaker", "outcomes", "reason"),
    [
        (Breaker(), "xxxxxx", None),
        (Breaker(), "xxxxxxx", "consecutive"),
        (Breaker(), "xxxxxx.xxxxxx", None),
        (Breaker(), "llllllllllllll", None),  # turned away is not sick
        (Breaker(consecutive=3), "xxlx", "consecutive"),  # nor does it end a row of failures
        (RATE, "xxxx", None),  # too few to tell
        (RATE, "xxxxx", "success_rate"),
        (RATE, "....x", None),  # 0.8 is enough
        (RATE, "...xx", "success_rate"),
        (RATE, "...ll", "success_rate"),
        (BOTH, "...xxx", "consecutive"),
        (BOTH, "..lll", "success_rate"),
        (Breaker(consecutive=1), "x", "consecutive"),
    ],
)
def test_when_an_endpoint_must_go(breaker, outcomes, reason) -> None:
    assert fed(breaker, outcomes) == reason


def test_the_window_forgets_step_by_step() -> None:
    accrual = Accrual(RATE)
    for at in (0.0, 0.5, 1.5, 2.5):
        accrual.add("failure", at)
    accrual.add("success", 9.9)
    assert accrual.seen == (1, 4)
    accrual.add("success", 10.2)  # the first step, with two failures, is over
    assert accrual.seen == (2, 2)
    accrual.add("success", 100)
    assert accrual.seen == (1, 0)


def test_what_is_told_late_counts_as_of_now_and_drops_nothing() -> None:
    accrual = Accrual(RATE)
    for _ in range(4):
        accrual.add("failure", 100.0)
    accrual.add("success", 88.0)  # a request that took twelve seconds
    accrual.add("success", 100.1)
    assert accrual.seen == (2, 4)


def test_an_idle_gap_forgets_everything() -> None:
    accrual = Accrual(RATE)
    for _ in range(4):
        accrual.add("failure", 1.0)
    assert accrual.add("failure", 500.0) is None
    assert accrual.seen == (0, 1)


def test_probes_are_strict_where_there_is_a_rate() -> None:
    assert Accrual(Breaker()).passes("limited")
    assert not Accrual(RATE).passes("limited")
    assert Accrual(RATE).passes("success")
    assert not Accrual(Breaker()).passes("failure")


def test_a_passed_probe_clears_what_was() -> None:
    accrual = Accrual(BOTH)
    accrual.add("failure", 0)
    accrual.clear()
    assert accrual.seen == (0, 0)
    assert repr(accrual) == "<Accrual 0 failures in a row, 0 of 0 bad in the window>"


@given(st.lists(st.tuples(st.sampled_from(["success", "failure", "limited"]), st.floats(0, 3)), max_size=60))
def test_the_window_counts_what_is_in_it(outcomes) -> None:
    accrual, now, told = Accrual(RATE), 0.0, []
    for outcome, elapsed in outcomes:
        now += elapsed
        told.append((outcome, now))
        accrual.add(outcome, now)
        first = int(now / 1.0) - 9  # ten steps of a second, this one included
        inside = [one for one, at in told if int(at / 1.0) >= first]
        assert accrual.seen == (inside.count("success"), len(inside) - inside.count("success"))


@pytest.mark.parametrize(
    "options",
    [
        {"consecutive": None},
        {"consecutive": 0},
        {"success_rate": 0},
        {"success_rate": 1.1},
        {"window": 0.001},
        {"min_requests": 0},
        {"min_requests": 1_000_001},
        {"floor": -0.1},
        {"floor": 1.1},
    ],
)
def test_impossible_breakers_are_refused(options) -> None:
    with pytest.raises(InvalidConfiguration):
        Breaker(**options)


def test_every_state_can_be_reached_and_left_by_removal() -> None:
    assert {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values()) == set(STATES)
    for state in STATES:
        if state != "leaving":
            assert TRANSITIONS[state, "removed"] == "leaving"
    assert Backoff(1, 60, 0.5).seconds(3, random.Random(1)) >= 4


# --- retry-after (linkerd2-proxy: linkerd/load-biaser) -----------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        ([("retry-after", "10")], 10),
        ([("retry-after", "100000")], 300),
        ([("retry-after", "soon")], None),
        ([("grpc-retry-pushback-ms", "2500"), ("retry-after", "10")], 2.5),
        ([("grpc-retry-pushback-ms", "9999999")], 300),
        ([("grpc-retry-pushback-ms", "-1")], None),
        ([("grpc-retry-pushback-ms", "-1"), ("retry-after", "10")], 10),
    ],
)
def test_what_an_answer_says_about_coming_back_is_believed_up_to_a_point(headers, seconds) -> None:
    assert hint_of(Response(503, headers)) == seconds
