"""Asking again: when, how often, how soon, and what the client sees of it: one answer."""

import random

import pytest
import trio

from linkerd_proxy.core.message import Request, Response, Whole
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import (
    AlreadyAnswered,
    ConnectFailed,
    ConnectTimeout,
    Denied,
    FailFast,
    IdleTimeout,
    InvalidConfiguration,
    NotAnswered,
    Overloaded,
    ResponseTimeout,
    UpstreamClosed,
    UpstreamProtocolError,
    UpstreamReset,
    UpstreamUnsent,
)
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.retry import Backoff, Budget, Retry, Timeout
from linkerd_proxy.route import Route
from linkerd_proxy.testing import call, check_layer, memory_connection
from tests.retry.upstream import Chunks, Upstream, ask, grpc, metric, nobody

QUICK = Backoff(0.025, 0.25)
GRPC = [("content-type", "application/grpc")]
UNSENT = [ConnectFailed("refused"), ConnectTimeout("dark"), UpstreamUnsent("refused"), FailFast("nobody")]
BROKEN = [
    ResponseTimeout("slow"),
    UpstreamClosed("gone"),
    UpstreamReset("reset"),
    UpstreamProtocolError("odd"),
    IdleTimeout("still"),
]


def rpc(body=b"", headers=()):
    return Request("POST", "/svc/Call", [*GRPC, *headers], body, version="2")


async def test_a_layer_as_any_other():
    await check_layer(Retry(), lambda: Exchange(Request("POST"), nobody, memory_connection()[1]))
    await check_layer(
        Retry(Budget(0.5), limit=3, http="5xx", grpc="internal", timeout=1.0, headers=True, labels={"route": "a"}),
        lambda: Exchange(Request("POST", body=Chunks(b"a", b"b")), nobody, memory_connection()[1]),
    )


# --- statuses ----------------------------------------------------------------------------------


async def test_an_answer_that_failed_is_asked_for_again(autojump_clock):
    upstream = Upstream([503, Response(200, body=b"at last")])
    assert await ask(Retry(http="5xx") | upstream) == (200, b"at last")
    assert len(upstream.asked) == 2
    assert metric("route_retry_requests_total") == metric("route_retry_successes_total") == 1
    assert metric("route_retryable_total", skipped="") == 1


async def test_a_status_that_is_not_listed_is_handed_on(autojump_clock):
    upstream = Upstream([500, 200])
    assert await ask(Retry() | upstream) == (500, b"")
    assert metric("route_retryable_total", skipped="") == 0


async def test_the_last_answer_is_handed_on_when_the_limit_is_reached(autojump_clock):
    upstream = Upstream([500, 502, Response(504, body=b"third"), 200])
    assert await ask(Retry(limit=2, http="5xx") | upstream) == (504, b"third")
    assert metric("route_retry_limit_exceeded_total") == 1
    assert metric("route_retry_successes_total") == 0


async def test_a_limit_of_zero_retries_nothing():
    assert await ask(Retry(limit=0, http="5xx") | Upstream([500, 200])) == (500, b"")
    assert metric("route_retry_limit_exceeded_total") == 0


async def test_what_may_not_be_repeated_is_not_after_an_answer(autojump_clock):
    upstream = Upstream([503, 200])
    assert await ask(Retry(http="5xx") | upstream, Request("POST", body=b"x")) == (503, b"")


async def test_methods_that_the_user_names_are_repeated(autojump_clock):
    upstream = Upstream([533, 200])
    retry = Retry(http="5xx", methods=("POST",))
    assert await ask(retry | upstream, Request("POST", body=b"small")) == (200, b"")
    assert upstream.bodies == [b"small", b"small"]


# --- failures without an answer ----------------------------------------------------------------


@pytest.mark.parametrize("error", UNSENT, ids=lambda error: error.code)
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
async def test_what_was_surely_not_processed_is_repeated_whatever_it_is(error, method, autojump_clock):
    upstream = Upstream([error, 200], reads=False)
    assert await ask(Retry() | upstream, Request(method, body=Chunks(b"x"))) == (200, b"")


@pytest.mark.parametrize("error", [*BROKEN, OSError("io"), trio.BrokenResourceError()], ids=repr)
async def test_what_broke_is_repeated_if_twice_is_as_good_as_once(error, autojump_clock):
    assert await ask(Retry() | Upstream([error, 200])) == (200, b"")
    upstream = Upstream([error, 200])
    with pytest.raises(type(error)) as caught:
        await ask(Retry() | upstream, Request("POST", body=b"x"))
    assert caught.value is error
    assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    "error", [Overloaded("full"), Denied("no"), ValueError("bug"), NotAnswered("nobody")], ids=repr
)
async def test_other_failures_are_not(error, autojump_clock):
    upstream = Upstream([error, 200])
    with pytest.raises(type(error)):
        await ask(Retry() | upstream)
    assert len(upstream.asked) == 1


async def test_an_upstream_that_asks_for_calm_gets_it(autojump_clock):
    error = UpstreamReset("reset")
    error.http2_code = 0xB
    with pytest.raises(UpstreamReset):
        await ask(Retry() | Upstream([error, 200]))


async def test_the_last_failure_is_the_one_that_is_told(autojump_clock):
    with pytest.raises(ConnectFailed, match="second"):
        await ask(Retry() | Upstream([UpstreamClosed("first"), ConnectFailed("second")]))


async def test_failures_that_come_in_a_group_are_understood(autojump_clock):
    group = ExceptionGroup("tasks", [RuntimeError("x"), ConnectFailed("refused")])
    assert await ask(Retry() | Upstream([group, 200])) == (200, b"")


async def test_an_unexpected_error_after_an_answer_was_thrown_away_is_loud(autojump_clock):
    async def buggy(exchange):
        await exchange.respond(Response(503))
        raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        await ask(Retry(http="5xx") | Upstream([buggy, 200]))


async def test_a_connection_that_breaks_while_its_answer_is_thrown_away_changes_nothing(autojump_clock):
    cut = Response(503, body=Chunks(b"half", fails=UpstreamClosed("cut")))
    assert await ask(Retry(http="5xx") | Upstream([cut, 200])) == (200, b"")


# --- one answer --------------------------------------------------------------------------------


async def test_no_try_follows_once_an_answer_has_begun(autojump_clock):
    upstream = Upstream([Response(200, body=Chunks(b"half", fails=UpstreamReset("cut"))), 200])
    with pytest.raises(UpstreamReset):
        await ask(Retry() | upstream)
    assert len(upstream.asked) == 1


async def test_an_upstream_that_answers_twice_is_a_bug_that_is_told(autojump_clock):
    async def twice(exchange):
        await exchange.respond(Response(503))
        await exchange.respond(Response(200))

    with pytest.raises(AlreadyAnswered):
        await ask(Retry(http="5xx") | Upstream([twice, 200]))


async def test_informational_answers_pass_and_100_does_so_once(autojump_clock):
    steps = [(Response(100), Response(103), ConnectFailed("x")), (Response(100), Response(103), 200)]
    async with call(Retry() | Upstream(steps), Request()) as response:
        assert [one.status for one in response.informational] == [100, 103, 103]


async def test_tries_together_inform_no_more_than_one_may(autojump_clock):
    many = (*[Response(103)] * 10, ConnectFailed("x"))
    async with call(Retry(limit=3) | Upstream([many, many, many, 200]), Request()) as response:
        assert len(response.informational) == 16


async def test_a_tunnel_is_tried_again_only_before_it_began(autojump_clock):
    request = Request("CONNECT", "", body=Chunks(b"x"), authority="a:1")
    upstream = Upstream([ConnectFailed("refused"), UpstreamClosed("gone")], reads=False)
    with pytest.raises(UpstreamClosed):
        await ask(Retry(limit=3, methods=("CONNECT",)) | upstream, request)
    assert len(upstream.asked) == 2


# --- bodies ------------------------------------------------------------------------------------


async def test_a_body_that_streams_is_sent_again_from_its_first_byte(autojump_clock):
    upstream = Upstream([503, 503, 200])
    body = Chunks(b"one", 0.1, b"two", b"three")
    assert await ask(Retry(limit=2) | upstream, Request("PUT", body=body)) == (200, b"")
    assert upstream.bodies == [b"onetwothree"] * 3


async def test_a_try_that_broke_half_way_leaves_the_rest_for_the_next(autojump_clock):
    async def half(exchange):
        assert await exchange.request.body.pull() == b"one"
        raise UpstreamUnsent("refused")

    async def whole(exchange):
        body = await exchange.request.body.read()
        await exchange.respond(Response(200, body=body))

    body = Chunks(b"one", b"two", length=6)
    request = Request("POST", body=body)
    assert await ask(Retry() | Upstream([half, whole], reads=False), request) == (200, b"onetwo")


async def test_a_body_that_outgrows_what_is_kept_is_sent_once(autojump_clock):
    chunk = bytes(32768)
    upstream = Upstream([503, 200])
    assert await ask(Retry() | upstream, Request("PUT", body=Chunks(chunk, chunk, chunk))) == (503, b"")
    assert upstream.bodies == [chunk * 3]
    assert metric("route_retryable_total", skipped="body") == 1


async def test_two_chunks_that_just_fit_are_sent_again(autojump_clock):
    chunk = bytes(32768)
    upstream = Upstream([503, 200])
    assert await ask(Retry() | upstream, Request("PUT", body=Chunks(chunk, chunk))) == (200, b"")


async def test_no_connection_is_tried_again_even_for_a_large_upload(autojump_clock):
    async def takes(exchange):
        await exchange.respond(Response(200, body=await exchange.request.body.read(1 << 20)))

    body = Chunks(*[bytes(32768)] * 4, length=131072)
    status, got = await ask(Retry() | Upstream([ConnectFailed("no"), takes], reads=False), Request("POST", body=body))
    assert (status, len(got)) == (200, 131072)


async def test_trailers_are_sent_again(autojump_clock):
    seen = []

    async def look(exchange):
        await exchange.request.body.read()
        seen.append(exchange.request.body.trailers)
        await exchange.respond(Response(503 if len(seen) == 1 else 200))

    request = Request("PUT", body=Chunks(b"x", trailers=Headers([("sum", "1")])))
    assert await ask(Retry() | Upstream([look], reads=False), request) == (200, b"")
    assert seen == [Headers([("sum", "1")])] * 2


async def test_an_answer_that_is_thrown_away_is_taken_in_while_the_next_try_is_not_due(autojump_clock):
    quick, slow = Chunks(b"x" * 1000, b"y"), Chunks(b"x", 60.0, b"y")
    upstream = Upstream([Response(503, body=quick), Response(503, body=slow), 200])
    assert await ask(Retry(limit=2, backoff=QUICK) | upstream) == (200, b"")
    assert quick.ended
    assert not slow.ended
    assert upstream.times == pytest.approx([0, 0.025, 0.075])


async def test_a_large_answer_that_is_thrown_away_is_given_up(autojump_clock):
    endless = Chunks(*[bytes(16384)] * 100)
    assert await ask(Retry() | Upstream([Response(503, body=endless), 200])) == (200, b"")
    assert endless.pulled == 5


# --- time --------------------------------------------------------------------------------------


async def test_waits_grow_and_spread(autojump_clock):
    upstream = Upstream([503] * 6 + [200])
    await ask(Retry(limit=6, backoff=QUICK) | upstream)
    gaps = [later - sooner for sooner, later in zip(upstream.times, upstream.times[1:], strict=False)]
    assert gaps == pytest.approx([0.025, 0.05, 0.1, 0.2, 0.25, 0.25])


async def test_the_default_waits_are_drawn_from_the_dice(autojump_clock):
    times = []
    for _ in range(2):
        upstream = Upstream([503, 200])
        await ask(Retry(dice=random.Random(7)) | upstream)
        times.append(upstream.times[1] - upstream.times[0])
    assert times[0] == pytest.approx(times[1])
    assert 0.025 <= times[0] <= 0.05


async def test_a_try_that_takes_too_long_is_given_up_for_another(autojump_clock):
    upstream = Upstream([(5.0, 200), 204])
    assert await ask(Retry(timeout=0.5, backoff=QUICK) | upstream) == (204, b"")
    assert upstream.times == pytest.approx([0, 0.525])
    assert upstream.cancelled == [0]


async def test_the_last_try_has_all_the_time_there_is(autojump_clock):
    upstream = Upstream([(5.0, 200)])
    assert await ask(Retry(timeout=0.5, backoff=QUICK) | upstream) == (200, b"")
    assert trio.current_time() == pytest.approx(5.525)


async def test_a_request_that_may_not_be_repeated_has_all_the_time_at_once(autojump_clock):
    upstream = Upstream([(5.0, 200)])
    assert await ask(Retry(timeout=0.5) | upstream, Request("POST")) == (200, b"")
    assert len(upstream.asked) == 1


async def test_an_upload_that_outgrew_what_is_kept_makes_its_try_the_last(autojump_clock):
    upstream = Upstream([(5.0, 200)])
    body = Chunks(*[bytes(40000)] * 2)
    assert await ask(Retry(timeout=0.5) | upstream, Request("PUT", body=body)) == (200, b"")
    assert len(upstream.asked) == 1


async def test_a_try_is_on_time_when_its_answers_head_is(autojump_clock):
    upstream = Upstream([Response(200, body=Chunks(3.0, b"slow"))])
    assert await ask(Retry(timeout=0.5) | upstream) == (200, b"slow")


async def test_a_try_that_takes_too_long_without_a_budget_says_so(autojump_clock):
    # The budget goes to somebody else while the try is under way.
    upstream = Upstream([(5.0, 200)])
    retry = Retry(Budget(0, 0.1, ttl=10), timeout=0.5, backoff=QUICK)

    async with opened(retry | upstream) as service, trio.open_nursery() as nursery:
        results = []

        async def one():
            try:
                results.append(await ask(service))
            except ResponseTimeout as error:
                results.append(str(error))

        nursery.start_soon(one)
        nursery.start_soon(one)
    assert (200, b"") in results
    assert "Retry: try 1 had no answer after 0.5 s" in str(results)


async def test_the_exchanges_own_deadline_ends_all_tries(autojump_clock):
    upstream = Upstream([(5.0, 200)])
    async with call(Rescue() | Timeout(0.6) | Retry(limit=3, timeout=0.25, backoff=QUICK) | upstream, Request()) as got:
        assert got.status == 504
    assert trio.current_time() == pytest.approx(0.6)
    assert len(upstream.asked) == 3


async def test_a_client_that_goes_away_ends_the_wait_for_the_next_try(autojump_clock):

    upstream = Upstream([503])
    async with opened(Retry(backoff=Backoff(10, 10)) | upstream) as service:
        with trio.move_on_after(1) as scope:
            await service(Exchange(Request(), nobody, memory_connection()[1]))
    assert scope.cancelled_caught
    assert len(upstream.asked) == 1


# --- what the upstream says about it -----------------------------------------------------------


async def test_the_upstreams_retry_after_is_waited_for(autojump_clock):
    upstream = Upstream([Response(503, [("retry-after", "2")]), 200])
    assert await ask(Retry(patience=3, backoff=QUICK) | upstream) == (200, b"")
    assert upstream.times == pytest.approx([0, 2])


@pytest.mark.parametrize("seconds", ["120", "99999999999"])
async def test_an_upstream_that_wants_more_patience_has_its_answer_handed_on(seconds, autojump_clock):
    upstream = Upstream([Response(503, [("retry-after", seconds)]), 200])
    assert await ask(Retry() | upstream) == (503, b"")
    assert metric("route_retryable_total", skipped="pushback") == 1


@pytest.mark.parametrize(("pushback", "times"), [("40", 2), ("-1", 1), ("soon", 1)])
async def test_grpc_pushback_is_obeyed(pushback, times, autojump_clock):
    upstream = Upstream([grpc(14, grpc_retry_pushback_ms=pushback), grpc(0)])
    await ask(Retry(grpc="unavailable", backoff=QUICK) | upstream, rpc())
    assert len(upstream.asked) == times
    assert upstream.times[-1] == pytest.approx(0.04 if times == 2 else 0)


@pytest.mark.parametrize(("pushback", "after"), [("1500", 1.5), (None, 2)])
async def test_what_http_says_counts_for_grpc_where_grpc_says_nothing(pushback, after, autojump_clock):
    told = {"retry_after": "2"} | ({} if pushback is None else {"grpc_retry_pushback_ms": pushback})
    upstream = Upstream([grpc(14, in_head=True, **told), grpc(0)])
    await ask(Retry(grpc="unavailable", patience=3, backoff=QUICK) | upstream, rpc())
    assert upstream.times == pytest.approx([0, after])


# --- gRPC --------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_head", [True, False])
async def test_a_call_that_failed_is_repeated_wherever_its_status_stands(in_head, autojump_clock):
    upstream = Upstream([grpc(13, in_head=in_head), grpc(0, b"fine")])
    async with call(Retry(grpc="internal") | upstream, rpc(b"ask")) as response:
        assert await response.body.read() == b"fine"
        assert response.body.trailers["grpc-status"] == "0"
    assert upstream.bodies == [b"ask", b"ask"]


async def test_a_status_after_content_is_seen_too(autojump_clock):
    upstream = Upstream([grpc(14, b"some", b"more"), grpc(0, b"fine")])
    assert await ask(Retry(grpc="unavailable") | upstream, rpc()) == (200, b"fine")


async def test_calls_are_not_repeated_unless_told(autojump_clock):
    upstream = Upstream([grpc(14), grpc(0)])
    async with call(Retry() | upstream, rpc()) as response:
        await response.body.read()
        assert response.body.trailers["grpc-status"] == "14"
    with pytest.raises(UpstreamClosed):
        await ask(Retry() | Upstream([UpstreamClosed("gone"), grpc(0)]), rpc())


async def test_calls_whose_connection_broke_are_repeated_if_told(autojump_clock):
    assert await ask(Retry(grpc="unavailable") | Upstream([UpstreamClosed("gone"), grpc(0)]), rpc()) == (200, b"")


async def test_a_stream_is_held_back_only_for_a_moment_and_loses_nothing(autojump_clock):
    stream = grpc(14, b"first", 5.0, b"second")
    upstream = Upstream([stream, grpc(0)])
    async with call(Retry(grpc="unavailable") | upstream, rpc()) as response:
        assert trio.current_time() == pytest.approx(0.01)
        assert await response.body.pull() == b"first"
        assert await response.body.pull() == b"second"
        assert await response.body.pull() == b""
        assert response.body.trailers["grpc-status"] == "14"
    assert len(upstream.asked) == 1


async def test_much_content_is_not_held_back(autojump_clock):
    upstream = Upstream([grpc(14, *[bytes(8000)] * 4), grpc(0)])
    status, body = await ask(Retry(grpc="unavailable") | upstream, rpc())
    assert (status, len(body), len(upstream.asked)) == (200, 32000, 1)


async def test_an_answer_that_breaks_while_it_is_held_back_is_a_failure_as_any(autojump_clock):
    cut = Response(200, GRPC, Chunks(b"half", fails=UpstreamReset("cut")), version="2")
    assert await ask(Retry(grpc="unavailable") | Upstream([cut, grpc(0, b"ok")]), rpc()) == (200, b"ok")


async def test_a_repeated_call_says_so_and_has_less_time_left(autojump_clock):
    upstream = Upstream([(0.5, grpc(14)), grpc(0)])
    retry = Retry(grpc="unavailable", backoff=QUICK)
    await ask(retry | upstream, rpc(headers=[("grpc-timeout", "2S")]))
    first, second = upstream.asked
    assert (first.headers["grpc-timeout"], first.headers.get("grpc-previous-rpc-attempts")) == ("2S", None)
    assert second.headers["grpc-previous-rpc-attempts"] == "1"
    assert second.headers["grpc-timeout"] == "1475000u"


# --- the budget --------------------------------------------------------------------------------


async def test_a_budget_that_is_used_up_lets_failures_through_until_it_is_paid_in_again(autojump_clock):

    upstream = Upstream([533, 200, 533, 533, 200])
    async with opened(Retry(Budget(0, 0.1, ttl=10), http="5xx") | upstream) as service:
        assert (await ask(service))[0] == 200
        assert (await ask(service))[0] == 533
        await trio.sleep(11)
        assert (await ask(service))[0] == 200
    assert metric("route_retryable_total", skipped="no_budget") == 1
    assert metric("route_retry_overflow_total") == 1


async def test_a_storm_is_bounded_by_the_budget(autojump_clock):

    upstream = Upstream([503])
    async with opened(Retry(limit=10, http="5xx", backoff=Backoff(0, 0)) | upstream) as service:
        for _ in range(1000):
            await ask(service)
    # 20 % of 1000 requests, and 10 a second for 10 seconds
    assert len(upstream.asked) - 1000 == 300
    assert metric("route_retry_requests_total") == 300


async def test_layers_that_name_one_budget_share_it(autojump_clock):

    budget = Budget(0, 0.1, ttl=10)
    one, two = Upstream([503, 200]), Upstream([503, 200])

    async with opened(Route({"/a": Retry(budget) | one, "/": Retry(budget) | two})) as service:
        assert (await ask(service, Request("GET", "/a")))[0] == 200
        assert (await ask(service, Request("GET", "/b")))[0] == 503


# --- headers -----------------------------------------------------------------------------------


async def test_headers_count_where_the_layer_allows(autojump_clock):
    headers = [("l5d-retry-http", "5xx"), ("l5d-retry-limit", "3"), ("x", "y")]
    upstream = Upstream([500, 500, 500, 200])
    assert await ask(Retry(headers=True, http="") | upstream, Request("GET", "/", headers)) == (200, b"")
    assert [list(one.headers) for one in upstream.asked] == [[("x", "y")]] * 4


async def test_headers_count_for_calls_too(autojump_clock):
    upstream = Upstream([grpc(13), grpc(0, b"ok")])
    request = rpc(headers=[("l5d-retry-grpc", "internal, unavailable"), ("l5d-retry-limit", "1")])
    assert await ask(Retry(headers=True) | upstream, request) == (200, b"ok")


async def test_a_header_bounds_each_try(autojump_clock):
    upstream = Upstream([(5.0, 200), 204])
    request = Request("GET", "/", [("l5d-retry-timeout", "500ms")])
    assert await ask(Retry(headers=True) | upstream, request) == (204, b"")
    assert upstream.cancelled == [0]


async def test_headers_that_are_not_allowed_are_removed_all_the_same(autojump_clock):
    upstream = Upstream([500, 200])
    request = Request("GET", "/", [("l5d-retry-http", "5xx"), ("x", "y")])
    assert await ask(Retry() | upstream, request) == (500, b"")
    assert list(upstream.asked[0].headers) == [("x", "y")]


async def test_malformed_headers_say_nothing(autojump_clock):
    headers = [
        ("l5d-retry-http", "all"),
        ("l5d-retry-grpc", "ok"),
        ("l5d-retry-limit", "-1"),
        ("l5d-retry-timeout", "5"),
    ]
    upstream = Upstream([503, 200])
    assert await ask(Retry(headers=True) | upstream, Request("GET", "/", headers)) == (200, b"")


# --- the rest ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"limit": -1}, "0 to 100"),
        ({"limit": 101}, "0 to 100"),
        ({"http": "2xx"}, "names no failures of HTTP"),
        ({"http": "200"}, "names no failures of HTTP"),
        ({"http": "599-500"}, "names no failures of HTTP"),
        ({"grpc": "ok"}, "names no failure of gRPC"),
        ({"grpc": "lost"}, "names no failure of gRPC"),
        ({"timeout": 0}, "greater than 0"),
        ({"methods": "GET"}, "a tuple of methods"),
        ({"max_request_bytes": -1}, "0 or more"),
        ({"patience": -1}, "0 seconds or more"),
        ({"peek": float("inf")}, "0 seconds or more"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused(settings, problem):
    with pytest.raises(InvalidConfiguration, match=problem):
        Retry(**settings)


def test_the_repr_tells_what_is_not_as_by_default():
    assert repr(Retry()) == "Retry()"
    retry = Retry(Budget(0.1), limit=2, http="5xx", grpc="unavailable", timeout=0.5)
    assert repr(retry) == (
        "Retry(budget=Budget(retry_ratio=0.1, min_retries_per_second=10.0, ttl=10.0), limit=2, http='5xx', "
        "grpc='unavailable', timeout=0.5)"
    )


async def test_a_whole_body_that_an_upstream_has_used_up_is_there_again(autojump_clock):
    upstream = Upstream([503, 200])
    assert await ask(Retry() | upstream, Request("PUT", body=Whole(b"data"))) == (200, b"")
    assert upstream.bodies == [b"data", b"data"]
