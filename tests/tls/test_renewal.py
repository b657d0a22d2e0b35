"""Certificates are renewed in time, whether they live for a day or for seconds."""

import logging
import random
from datetime import UTC, datetime, timedelta

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.tls.identity import LiveIdentity
from linkerd_proxy.tls.renewal import Renewal, Reported
from tests.tls.conftest import WEB

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def clock():
    return NOW + timedelta(seconds=trio.current_time())


def seconds(left, renewal=Renewal()):  # noqa: B008  # a value
    return renewal.seconds(NOW + timedelta(seconds=left), NOW)


@pytest.mark.parametrize(
    ("left", "wait"),
    [(86400, 60480), (600, 420), (20, 14), (3, 2.1), (1, 0.7), (0.1, 0.5), (0, 0.5), (-5, 0.5), (10 * 86400, 86400)],
)
def test_the_wait_is_a_share_of_what_is_left(left, wait):
    assert seconds(left) == pytest.approx(wait)


def test_a_minimum_holds_only_as_far_as_the_certificate_lives_long_enough():
    eager = Renewal(share=0.1, minimum=10)
    assert [seconds(left, eager) for left in (200, 60, 20, 10, 4)] == [20, 10, 10, 5, 2]


@given(st.floats(1.0, 1e7), st.floats(0.01, 0.99), st.floats(0.001, 1e4))
def test_what_lives_for_a_second_or_longer_is_renewed_before_it_expires(left, share, minimum):
    assert 0 < seconds(left, Renewal(share, minimum)) < left


async def test_a_wall_clock_that_jumps_is_seen_within_a_minute(autojump_clock):
    ahead = [timedelta()]

    def now():
        return clock() + ahead[0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Renewal().wait, NOW + timedelta(days=1), now)
        await trio.sleep(90)
        ahead[0] = timedelta(hours=20)
    assert trio.current_time() == 120


async def test_the_nearer_the_end_the_sooner_the_next_try(autojump_clock, issuer, caplog):
    caplog.set_level(logging.WARNING, "linkerd_proxy.identity")
    credentials = issuer.credentials(WEB)
    live = LiveIdentity(WEB, credentials)
    reported = Reported(live, Backoff(1.0, 30.0), random.Random(1))
    end = credentials.not_after
    waits = []
    for left in (1000, 1000, 1000, 1000, 1000, 1000, 40, 4, 0.2, -10):
        start = trio.current_time()
        await reported.wait_after(OSError("down"), end - timedelta(seconds=left))
        waits.append(trio.current_time() - start)
    assert waits == pytest.approx([1, 2, 4, 8, 16, 30, 20, 2, 0.5, 30])
    reported.publish(credentials, NOW)
    start = trio.current_time()
    await reported.wait_after(OSError("down"), end - timedelta(seconds=1000))
    assert trio.current_time() - start == pytest.approx(1)
