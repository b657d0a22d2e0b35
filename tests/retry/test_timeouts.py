"""Deadlines of exchanges: what each of them counts, and what it lets be."""

from contextlib import nullcontext

import pytest
import trio

from linkerd_proxy.core.kept_scope import KeptScope
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import IdleTimeout, InvalidConfiguration, ResponseTimeout
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.retry import Backoff, Retry, Timeouts
from linkerd_proxy.testing import call, check_layer, memory_connection
from tests.retry.upstream import Chunks, Upstream, ask, grpc, nobody

GRPC = [("content-type", "application/grpc")]


def rpc(timeout=None):
    headers = GRPC if timeout is None else [*GRPC, ("grpc-timeout", timeout)]
    return Request("POST", "/svc/Call", headers, version="2")


@pytest.mark.parametrize("layer", [Timeouts(), Timeouts(5), Timeouts(5, 4, 3, grpc=False, headers=True)])
async def test_a_layer_as_any_other(layer):
    await check_layer(layer, lambda: Exchange(Request("PUT", body=Chunks(b"a")), nobody, memory_connection()[1]))


# --- request -----------------------------------------------------------------------------------


async def test_the_request_deadline_counts_while_the_head_is_waited_for(autojump_clock):
    with pytest.raises(ResponseTimeout, match=r"Timeouts: the exchange was not complete after 1 s"):
        await ask(Timeouts(request=1) | Upstream([(5.0, 200)]))
    assert trio.current_time() == pytest.approx(1)


async def test_the_request_deadline_counts_while_the_request_comes(autojump_clock):
    with pytest.raises(ResponseTimeout):
        await ask(Timeouts(request=1) | Upstream([200]), Request("PUT", body=Chunks(b"a", 5.0, b"b")))
    assert trio.current_time() == pytest.approx(1)


async def test_the_request_deadline_counts_while_the_answer_comes(autojump_clock):
    async with call(Timeouts(request=1) | Upstream([Response(200, body=Chunks(b"a", 5.0, b"b"))]), Request()) as got:
        assert await got.body.pull() == b"a"
        with pytest.raises(ResponseTimeout):
            await got.body.pull()
    assert trio.current_time() == pytest.approx(1)


# --- response ----------------------------------------------------------------------------------


async def test_the_response_deadline_does_not_count_the_upload(autojump_clock):
    body = Chunks(b"a", 5.0, b"b")
    assert await ask(Timeouts(response=1) | Upstream([(0.9, 200)]), Request("PUT", body=body)) == (200, b"")
    assert trio.current_time() == pytest.approx(5.9)


async def test_the_response_deadline_counts_from_the_uploads_end_to_the_answers(autojump_clock):
    body = Chunks(b"a", 5.0, b"b")
    slow = Response(200, body=Chunks(b"x", 0.6, b"y", 0.6, b"z"))
    async with call(Timeouts(response=1) | Upstream([slow]), Request("PUT", body=body)) as got:
        with pytest.raises(ResponseTimeout, match="a request that was sent was not complete after 1 s"):
            await got.body.read()
    assert trio.current_time() == pytest.approx(6)


async def test_the_response_deadline_of_a_request_in_memory_begins_at_once(autojump_clock):
    with pytest.raises(ResponseTimeout):
        await ask(Timeouts(response=1) | Upstream([(1.1, 200)]), Request("PUT", body=b"small"))
    assert trio.current_time() == pytest.approx(1)


async def test_an_answer_that_overtakes_its_upload_has_no_deadline_yet(autojump_clock):
    async def early(exchange):
        await exchange.respond(Response(200, body=Chunks(2.0, b"early")))

    request = Request("PUT", body=Chunks(b"a", 60.0))
    assert await ask(Timeouts(response=1) | Upstream([early], reads=False), request) == (200, b"early")


@pytest.mark.parametrize(
    ("request_", "response", "told"),
    [(1, None, "exchange"), (1, 2, "exchange"), (1, 1, "exchange"), (2, 1, "answer"), (None, 1, "answer")],
)
@pytest.mark.parametrize("body", [bytes, Chunks])
async def test_the_shorter_of_both_counts_whatever_the_body(request_, response, told, body, autojump_clock):
    with pytest.raises(ResponseTimeout, match=f"the {told}.* was not complete after 1 s"):
        await ask(Timeouts(request_, response) | Upstream([(5.0, 200)]), Request("PUT", body=body()))
    assert trio.current_time() == pytest.approx(1)


async def test_what_was_late_once_makes_nothing_late_that_follows(autojump_clock):
    waits = (1.0, 2.5, 1.9, 9.0, 0.0)
    async with opened(Timeouts(3, 2) | Upstream([(wait, 200) for wait in waits])) as service:
        with KeptScope():
            for wait in waits:
                with pytest.raises(ResponseTimeout) if wait > 2 else nullcontext():
                    await service(Exchange(Request(), nobody, memory_connection()[1]))


# --- idle --------------------------------------------------------------------------------------


async def test_silence_before_the_answer_is_idle(autojump_clock):
    with pytest.raises(IdleTimeout, match="nothing moved in either direction after 1 s"):
        await ask(Timeouts(idle=1) | Upstream([(5.0, 200)]))


async def test_what_moves_is_not_idle_however_long_it_takes(autojump_clock):
    request = Request("PUT", body=Chunks(*[b"a", 0.9] * 5))
    answer = Response(200, body=Chunks(*[0.9, b"b"] * 5))
    assert await ask(Timeouts(idle=1) | Upstream([answer]), request) == (200, b"b" * 5)
    assert trio.current_time() == pytest.approx(9)


async def test_silence_in_the_middle_of_the_answer_is_idle(autojump_clock):
    async with call(Timeouts(idle=1) | Upstream([Response(200, body=Chunks(0.5, b"a", 5.0))]), Request()) as got:
        assert await got.body.pull() == b"a"
        with pytest.raises(IdleTimeout):
            await got.body.pull()
    assert trio.current_time() == pytest.approx(1.5)


async def test_trailers_pass(autojump_clock):
    async with call(Timeouts(1, 1, 1) | Upstream([grpc(0, b"x")]), rpc()) as response:
        await response.body.read()
        assert response.body.trailers["grpc-status"] == "0"


async def test_tunnels_are_let_be(autojump_clock):
    async def tunnel(exchange):
        assert await exchange.request.body.pull() == b""
        await exchange.respond(Response(200, body=Chunks(60.0, b"late")))

    request = Request("CONNECT", "", body=Chunks(), authority="a:1")
    async with call(Timeouts(response=1, idle=1) | Upstream([tunnel], reads=False), request) as response:
        assert await response.body.read() == b"late"


# --- the client's own --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("configured", "asked", "seconds", "told"),
    [
        (None, "2S", 2, "2S"),
        (5, "2S", 2, "2S"),
        (1, "2S", 1, "1000000u"),
        (1, None, 1, "1000000u"),
        (1, "soon", 1, "1000000u"),
    ],
)
async def test_the_sooner_of_two_deadlines_counts_and_is_told(configured, asked, seconds, told, autojump_clock):
    upstream = Upstream([(60.0, grpc(0))])
    async with call(Rescue() | Timeouts(configured) | upstream, rpc(asked)) as response:
        assert response.headers["grpc-status"] == "4"
    assert trio.current_time() == pytest.approx(seconds)
    assert upstream.asked[0].headers["grpc-timeout"] == told


async def test_a_calls_own_deadline_is_ignored_if_told(autojump_clock):
    upstream = Upstream([(60.0, grpc(0))])
    assert (await ask(Timeouts(grpc=False) | upstream, rpc("2S")))[0] == 200
    assert upstream.asked[0].headers["grpc-timeout"] == "2S"


async def test_a_timeout_that_is_no_calls_means_nothing(autojump_clock):
    assert (await ask(Timeouts() | Upstream([(60.0, 200)]), Request(headers=[("grpc-timeout", "1S")])))[0] == 200


async def test_headers_count_where_the_layer_allows(autojump_clock):
    for name, seconds in (("l5d-timeout", 2), ("l5d-request-timeout", 2), ("l5d-response-timeout", 2)):
        start = trio.current_time()
        upstream = Upstream([(60.0, 200)])
        with pytest.raises(ResponseTimeout):
            await ask(Timeouts(5, 5, headers=True) | upstream, Request(headers=[(name, "2s"), ("x", "y")]))
        assert trio.current_time() - start == pytest.approx(seconds)
        assert list(upstream.asked[0].headers) == [("x", "y")]


async def test_headers_that_are_not_allowed_are_removed_all_the_same(autojump_clock):
    upstream = Upstream([(3.0, 200)])
    headers = [("l5d-timeout", "2s"), ("l5d-response-timeout", "1s"), ("x", "y")]
    assert await ask(Timeouts() | upstream, Request(headers=headers)) == (200, b"")
    assert list(upstream.asked[0].headers) == [("x", "y")]


async def test_malformed_headers_say_nothing(autojump_clock):
    upstream = Upstream([(3.0, 200)])
    headers = [("l5d-timeout", "2"), ("l5d-response-timeout", "never")]
    assert await ask(Timeouts(5, headers=True) | upstream, Request(headers=headers)) == (200, b"")


# --- together ----------------------------------------------------------------------------------


async def test_retries_happen_within_the_deadline(autojump_clock):
    stack = Timeouts(request=2) | Retry(limit=5, timeout=0.5, backoff=Backoff(0.1, 0.1)) | Upstream([(60.0, 200)])
    with pytest.raises(ResponseTimeout, match="Timeouts"):
        await ask(stack)
    assert trio.current_time() == pytest.approx(2)


async def test_a_cancellation_from_outside_is_not_its_own(autojump_clock):
    async with opened(Timeouts(5) | Upstream([(60.0, 200)])) as service:
        with trio.move_on_after(5) as same_time:
            await service(Exchange(Request(), nobody, memory_connection()[1]))
    assert same_time.cancelled_caught


async def test_errors_pass():
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        await ask(Timeouts(5, 5, 5) | Upstream([error]))
    assert caught.value is error


@pytest.mark.parametrize("name", ["request", "response", "idle"])
@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_impossible_deadlines_are_refused(name, seconds):
    with pytest.raises(InvalidConfiguration, match=rf"Timeouts\({name}=.*greater than 0"):
        Timeouts(**{name: seconds})
