"""Asking twice when it takes long: the first good answer wins, and the loser is let go."""

from contextlib import asynccontextmanager

import pytest
import trio

from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.shared import shared
from linkerd_proxy.core.stack import Layer, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import ConnectFailed, InvalidConfiguration, UpstreamClosed, UpstreamReset
from linkerd_proxy.retry import Budget, Hedge, Retry
from linkerd_proxy.testing import call, check_layer, memory_connection
from tests.retry.upstream import Chunks, Upstream, ask, grpc, metric, nobody

GRPC = [("content-type", "application/grpc")]


@pytest.mark.parametrize("layer", [Hedge(), Hedge(Budget(0.1), delay=1.0, percentile=0.9, labels={"a": "b"})])
async def test_a_layer_as_any_other(layer):
    await check_layer(layer, lambda: Exchange(Request("PUT", body=Chunks(b"a")), nobody, memory_connection()[1]))


async def test_a_quick_answer_is_asked_for_once(autojump_clock):
    upstream = Upstream([(0.05, Response(200, body=Chunks(1.0, b"long")))])
    assert await ask(Hedge() | upstream) == (200, b"long")
    assert len(upstream.asked) == 1


async def test_a_slow_answer_is_asked_for_twice_and_the_second_may_win(autojump_clock):
    upstream = Upstream([(60.0, 200), (0.05, Response(204))])
    assert await ask(Hedge(delay=0.1) | upstream) == (204, b"")
    assert upstream.times == pytest.approx([0, 0.1])
    assert trio.current_time() == pytest.approx(0.15)
    assert upstream.cancelled == [0]
    assert metric("route_hedge_requests_total") == metric("route_hedge_wins_total") == 1


async def test_the_first_may_win_too(autojump_clock):
    upstream = Upstream([(0.2, Response(200, body=Chunks(0.5, b"x"))), (60.0, 204)])
    assert await ask(Hedge(delay=0.1) | upstream) == (200, b"x")
    assert upstream.cancelled == [1]
    assert metric("route_hedge_wins_total") == 0


async def test_the_winner_goes_on_after_the_loser_was_cancelled(autojump_clock):
    upstream = Upstream([(60.0, 200), Response(200, body=Chunks(b"a", 5.0, b"b"))])
    assert await ask(Hedge(delay=0.1) | upstream) == (200, b"ab")


async def test_what_may_not_be_repeated_is_asked_once(autojump_clock):
    upstream = Upstream([(5.0, 200)])
    assert await ask(Hedge(delay=0.1) | upstream, Request("POST")) == (200, b"")
    assert len(upstream.asked) == 1


async def test_a_bad_answer_does_not_win_while_the_other_may_come(autojump_clock):
    upstream = Upstream([(0.2, 503), (0.2, 200)])
    assert await ask(Hedge(delay=0.1) | upstream) == (200, b"")
    upstream = Upstream([(0.3, 200), 503])
    assert await ask(Hedge(delay=0.1) | upstream) == (200, b"")


async def test_of_two_bad_answers_the_last_is_handed_on(autojump_clock):
    upstream = Upstream([(0.2, 503), (0.2, Response(502, body=b"last"))])
    assert await ask(Hedge(delay=0.1) | upstream) == (502, b"last")


async def test_a_failure_waits_for_the_other_and_the_last_one_is_told(autojump_clock):
    upstream = Upstream([(0.2, UpstreamClosed("first")), (0.2, 200)])
    assert await ask(Hedge(delay=0.1) | upstream) == (200, b"")
    first, second = UpstreamClosed("first"), UpstreamReset("second")
    with pytest.raises(UpstreamReset) as caught:
        await ask(Hedge(delay=0.1) | Upstream([(0.2, first), (0.2, second)]))
    assert caught.value is second
    with pytest.raises(UpstreamClosed, match="first"):
        await ask(Hedge(delay=0.1) | Upstream([(0.5, first), (0.1, second)]))


async def test_a_failure_before_the_second_request_is_told_at_once(autojump_clock):
    upstream = Upstream([ConnectFailed("refused"), 200])
    with pytest.raises(ConnectFailed):
        await ask(Hedge() | upstream)
    assert trio.current_time() == 0
    assert len(upstream.asked) == 1
    assert await ask(Hedge() | Upstream([503, 200])) == (503, b"")


async def test_a_winner_that_breaks_breaks(autojump_clock):
    upstream = Upstream([(60.0, 200), Response(200, body=Chunks(b"half", fails=UpstreamReset("cut")))])
    with pytest.raises(UpstreamReset):
        await ask(Hedge(delay=0.1) | upstream)


async def test_bodies_are_there_twice_if_all_was_sent(autojump_clock):
    upstream = Upstream([(5.0, 200), 204])
    assert await ask(Hedge(delay=0.1) | upstream, Request("PUT", body=Chunks(b"a", b"b"))) == (204, b"")
    assert upstream.bodies == [b"ab", b"ab"]
    upstream = Upstream([(5.0, 200), 204])
    assert await ask(Hedge(delay=0.1) | upstream, Request("PUT", body=b"whole")) == (204, b"")
    assert upstream.bodies == [b"whole", b"whole"]


async def test_an_upload_that_still_comes_is_not_hedged(autojump_clock):
    upstream = Upstream([200, 204])
    assert await ask(Hedge(delay=0.1) | upstream, Request("PUT", body=Chunks(b"a", 1.0, b"b"))) == (200, b"")
    assert upstream.bodies == [b"ab"]


async def test_an_upload_too_large_to_be_kept_is_not_hedged(autojump_clock):
    upstream = Upstream([(1.0, 200), 204])
    request = Request("PUT", body=Chunks(bytes(70000)))
    assert await ask(Hedge(delay=0.1) | upstream, request) == (200, b"")
    assert len(upstream.asked) == 1


async def test_hedges_have_a_budget(autojump_clock):
    upstream = Upstream([(1.0, 200)])
    async with opened(Hedge(Budget(0.1, 0), delay=0.1) | upstream) as service:
        for _ in range(100):
            await ask(service)
            if len(upstream.asked) > 50:
                break
    assert metric("route_hedge_requests_total") <= 5
    assert metric("route_hedge_overflow_total") >= 40


BUDGET = Budget(2.0, 0)
ASKED = {"http": "5xx", "methods": ("GET",)}


@pytest.mark.parametrize(
    "layers",
    [
        [Retry(BUDGET, **ASKED), Hedge(BUDGET, **ASKED)],
        [Hedge(BUDGET, **ASKED), Retry(BUDGET, **ASKED)],
        [Retry(BUDGET, **ASKED), Retry(BUDGET, **ASKED)],
        [Retry(BUDGET, **ASKED), Retry(Budget(), **ASKED), Hedge(BUDGET, **ASKED)],
        [Retry(Budget(), **ASKED), Hedge(BUDGET, **ASKED)],
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_pays_into_a_budget_once_however_many_layers_and_tries_there_are(
    layers, method, autojump_clock
):
    accounts = []

    class Teller(Layer[Exchange, Exchange]):
        @asynccontextmanager
        async def open(self, inner):
            async with shared(BUDGET) as account:
                accounts.append(account)
                yield inner

    upstream = Upstream([503, 200] if method == "GET" else [200])
    stack = Teller() | upstream
    for layer in reversed(layers):
        stack = layer | stack
    async with opened(stack) as service:
        for number in range(1, 4):
            upstream.asked.clear()
            assert await ask(service, Request(method)) == (200, b"")
            retried = [layer for layer in layers if isinstance(layer, Retry)][-1].budget
            withdrawn = number if method == "GET" and retried is BUDGET else 0
            assert accounts[0].balance == 2.0 * number - withdrawn
            assert len(upstream.asked) == (2 if method == "GET" else 1)


async def test_calls_are_judged_by_their_status(autojump_clock):
    request = Request("POST", "/svc/Call", GRPC, version="2")
    upstream = Upstream([(0.2, grpc(14)), (0.3, grpc(0, b"fine"))])
    assert await ask(Hedge(delay=0.1, grpc="unavailable") | upstream, request) == (200, b"fine")
    upstream = Upstream([(0.2, grpc(14)), grpc(0, b"fine")])
    await ask(Hedge(delay=0.1) | upstream, request)
    assert len(upstream.asked) == 1


async def test_informational_answers_pass_as_long_as_there_is_one_request(autojump_clock):
    upstream = Upstream([(Response(103), 0.3, Response(103), 200), (Response(103), 5.0, 200)])
    async with call(Hedge(delay=0.1) | upstream, Request()) as response:
        assert [one.status for one in response.informational] == [103]


async def test_a_percentile_learns_what_is_slow(autojump_clock):
    async def quick(exchange):
        await trio.sleep(0.01)
        await exchange.respond(Response(200))

    upstream = Upstream([quick] * 99 + [(60.0, 200), quick])
    async with opened(Hedge(delay=5.0, percentile=0.95) | upstream) as service:
        for _ in range(99):
            await ask(service)
            await trio.sleep(0.05)
        start = trio.current_time()
        assert (await ask(service))[0] == 200
    assert 0.015 < trio.current_time() - start < 0.03
    assert len(upstream.asked) == 101


async def test_what_was_long_ago_is_forgotten(autojump_clock):
    upstream = Upstream([(0.01, 200)] * 30 + [(0.3, 200)])
    async with opened(Hedge(delay=0.5, percentile=0.95) | upstream) as service:
        for _ in range(30):
            await ask(service)
        await trio.sleep(60)
        await ask(service)
    assert len(upstream.asked) == 31


async def test_it_goes_inside_a_retry(autojump_clock):
    upstream = Upstream([(0.2, 503), (0.2, 503), 200])
    assert await ask(Retry() | Hedge(delay=0.1) | upstream) == (200, b"")


async def test_a_client_that_goes_away_ends_both(autojump_clock):
    upstream = Upstream([(60.0, 200)])
    async with opened(Hedge(delay=0.1) | upstream) as service:
        with trio.move_on_after(1) as scope:
            await service(Exchange(Request(), nobody, memory_connection()[1]))
    assert scope.cancelled_caught
    assert sorted(upstream.cancelled) == [0, 1]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"delay": -1}, "0 seconds or more"),
        ({"percentile": 0}, "more than 0"),
        ({"percentile": 95}, "less than 1"),
        ({"http": "2xx"}, "no failures"),
        ({"grpc": "fine"}, "no failure"),
        ({"methods": "GET"}, "tuple"),
        ({"max_request_bytes": -1}, "0 or more"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused(settings, problem):
    with pytest.raises(InvalidConfiguration, match=problem):
        Hedge(**settings)
