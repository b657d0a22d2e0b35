"""Endpoints that go out for what they answer, and come back by one probe."""

import random

import pytest
import trio
import trio.testing

from linkerd_proxy.balance.balance import Balance
from linkerd_proxy.balance.breaker import Breaker
from linkerd_proxy.balance.picks import P2c, RoundRobin
from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.core.message import Response, Streamed
from linkerd_proxy.core.stack import opened
from linkerd_proxy.errors import (
    BadRequest,
    ConnectFailed,
    FailFast,
    ResponseTimeout,
    UpstreamClosed,
    UpstreamReset,
    UpstreamUnsent,
)
from linkerd_proxy.headers import Headers
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.retry.timeouts import Timeouts
from tests.balance.origins import Fleet, ask, exchange, known, takes

ALONE = Breaker(consecutive=3, backoff=Backoff(1, 60), floor=0)


def balance(fleet, *ports, **options):
    options = {"breaker": ALONE, "pick": RoundRobin(), "dice": random.Random(1), **options}
    return Balance(known(*(ports or (1,))), fleet.replica, **options)


def one(service):
    return service.statistics().endpoints[0]


async def test_failures_in_a_row_put_it_out_then_a_probe_decides(autojump_clock) -> None:
    # linkerd2-proxy: failure_accrual, http/breaker/consecutive_failures
    fleet = Fleet()
    fleet.behaviour[1] = 500
    async with opened(balance(fleet)) as service:
        for _ in range(3):
            assert await ask(service) == 500
        assert one(service).state == "out"
        with trio.move_on_after(0.5) as waiting:
            await ask(service)
        assert waiting.cancelled_caught
    assert fleet.served[1] == 3


async def test_a_probe_that_fails_doubles_the_wait_and_one_that_passes_ends_it(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = 500
    async with opened(balance(fleet)) as service:
        for _ in range(3):
            await ask(service)
        for waits in (1, 2, 4):
            await trio.sleep(waits - 0.01)
            assert one(service).state == "out"
            await trio.sleep(0.02)
            assert one(service).state == "probation"
            assert await ask(service) == 500
            assert one(service).state == "out"
        fleet.behaviour[1] = 200
        await trio.sleep(8.01)
        assert await ask(service) == 200
        assert one(service).state == "ready"
        fleet.behaviour[1] = 500
        for _ in range(3):
            await ask(service)
        await trio.sleep(1.01)  # the wait is short again
        assert one(service).state == "probation"
    ejections = current_registry().counter("balancer_ejections_total", "", balancer="", reason="consecutive")
    assert ejections.value == 5


async def test_while_the_probe_is_under_way_others_wait_for_how_it_goes(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = 500
    async with opened(balance(fleet)) as service:
        for _ in range(3):
            await ask(service)
        await trio.sleep(1.5)
        fleet.behaviour[1] = takes(1)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask, service)
            await trio.sleep(0.5)
            assert one(service).state == "probing"
            assert fleet.served[1] == 4
            assert service.statistics().waiting == 4
    assert fleet.served[1] == 8


async def test_a_probe_that_nobody_wants_any_more_decides_nothing(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = 500
    async with opened(balance(fleet)) as service:
        for _ in range(3):
            await ask(service)
        await trio.sleep(1.5)
        fleet.behaviour[1] = takes(10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, service)
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        assert one(service).state == "probation"
        fleet.behaviour[1] = 200
        assert await ask(service) == 200


async def test_work_that_was_sent_before_says_nothing_after(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = takes(5, 500)
    async with opened(balance(fleet)) as service, trio.open_nursery() as nursery:
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            nursery.start_soon(ask, service)
        await trio.sleep(1)
        fleet.behaviour[1] = 500
        for _ in range(3):
            await ask(service)
        await trio.sleep(1.5)
        fleet.behaviour[1] = 200
        await ask(service)
        await trio.sleep(5)  # three old failures come in
        assert one(service).state == "ready"


@pytest.mark.parametrize(
    ("behaviour", "state"),
    [
        (500, "out"),
        (503, "out"),
        (404, "ready"),
        (429, "ready"),
        (UpstreamClosed("x"), "out"),
        (UpstreamReset("x"), "out"),
        (ResponseTimeout("x"), "out"),
        (OSError("x"), "out"),
        (trio.BrokenResourceError("x"), "out"),
        (UpstreamUnsent("x"), "ready"),
        (BadRequest("x"), "ready"),
        (ValueError("x"), "ready"),
    ],
    ids=repr,
)
async def test_what_an_endpoint_is_blamed_for(behaviour, state, autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = behaviour
    async with opened(balance(fleet)) as service:
        for _ in range(3):
            if isinstance(behaviour, Exception):
                with pytest.raises(type(behaviour)):
                    await ask(service)
            else:
                await ask(service)
        assert one(service).state == state


def grpc(status: str | None = None, trailers: str | None = None, failing: bool = False):
    async def answer(_):
        async def chunks():
            yield b"message"
            body.trailers = Headers([("grpc-status", trailers or "0")])
            if failing:
                raise UpstreamReset("half-way")

        if status is not None:
            return Response(200, [("grpc-status", status)], version="2")
        body = Streamed(chunks())
        return Response(200, [], body, version="2")

    return answer


async def call(service) -> None:
    async def respond(response: Response) -> None:
        while await response.body.pull():
            pass

    asked = exchange(method="POST", headers=[("content-type", "application/grpc")], version="2")
    asked.respond = respond
    await service(asked)


@pytest.mark.parametrize(
    ("behaviour", "state"),
    [
        (grpc("0"), "ready"),
        (grpc("14"), "out"),
        (grpc("13"), "out"),
        (grpc("5"), "ready"),
        (grpc("8"), "ready"),
        (grpc(trailers="0"), "ready"),
        (grpc(trailers="14"), "out"),
        (grpc(trailers="5"), "ready"),
    ],
)
async def test_grpc_calls_are_judged_by_their_status_wherever_it_stands(behaviour, state, autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = behaviour
    async with opened(balance(fleet)) as service:
        for _ in range(3):
            await call(service)
        assert one(service).state == state


async def test_a_grpc_probe_passes_with_its_head_and_may_still_fail_at_its_end(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = 500
    async with opened(balance(fleet)) as service:
        for _ in range(3):
            await ask(service)
        await trio.sleep(1.5)
        fleet.behaviour[1] = grpc(trailers="14")
        await call(service)
        assert (one(service).state, one(service).ejections) == ("out", 2)
        await trio.sleep(1.5)
        assert one(service).state == "out"  # 2 s this time


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_a_body_that_breaks_off_is_a_failure(version, autojump_clock) -> None:
    fleet = Fleet()

    async def broken(_):
        async def chunks():
            yield b"half"
            raise UpstreamClosed("half-way")

        return Response(200, body=Streamed(chunks()))

    fleet.behaviour[1] = broken

    async def respond(response: Response) -> None:
        while await response.body.pull():
            pass

    async with opened(balance(fleet)) as service:
        for _ in range(3):
            asked = exchange(version=version)
            asked.respond = respond
            with pytest.raises(UpstreamClosed):
                await service(asked)
        assert one(service).state == "out"


async def test_a_deadline_that_expires_before_the_answer_is_a_failure_and_a_client_that_leaves_is_none(
    autojump_clock,
) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = takes(60)
    async with opened(balance(fleet)) as service:
        for _ in range(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, service)
                await trio.sleep(0.5)
                nursery.cancel_scope.cancel()
        assert one(service).state == "ready"
        assert one(service).rtt == pytest.approx(0.5, rel=0.1)
        for _ in range(3):
            with trio.move_on_after(1):
                await ask(service)
        assert one(service).state == "out"


async def test_a_client_that_leaves_late_is_not_taken_for_a_deadline_that_was_moved(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = takes(60)
    async with opened(balance(fleet)) as service:
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                with trio.CancelScope(deadline=trio.current_time() + 1) as idle:
                    nursery.start_soon(moved, idle, nursery.cancel_scope)
                    await ask(service)
        assert one(service).state == "ready"


async def moved(idle: trio.CancelScope, client: trio.CancelScope) -> None:
    await trio.sleep(0.5)
    idle.deadline += 10  # something moved
    await trio.sleep(5)
    client.cancel()


async def test_a_deadline_that_is_set_once_the_request_is_sent_counts_as_any(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = takes(60)

    async def body():
        yield b"all"

    async def hang(asked) -> int:
        await asked.request.body.read()
        return await takes(60)(asked)

    fleet.behaviour[1] = hang
    async with opened(Timeouts(response=1) | balance(fleet)) as service:
        for _ in range(3):
            with pytest.raises(ResponseTimeout):
                await ask(service, method="POST", body=Streamed(body()))
        with trio.move_on_after(0.5):
            await ask(service, method="POST", body=Streamed(body()))
    assert fleet.served[1] == 3


async def test_the_floor_keeps_half_of_the_endpoints_whatever_they_answer(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour = dict.fromkeys((1, 2, 3, 4), 500)
    async with opened(balance(fleet, 1, 2, 3, 4, breaker=Breaker(consecutive=2, backoff=Backoff(60, 60)))) as service:
        for _ in range(40):
            assert await ask(service) == 500
        states = [endpoint.state for endpoint in service.statistics().endpoints]
        assert sorted(states) == ["out", "out", "ready", "ready"]


async def test_one_that_cannot_be_reached_goes_whatever_the_floor_says(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour = dict.fromkeys((1, 2), "refused")
    async with opened(balance(fleet, 1, 2, breaker=Breaker(floor=1))) as service:
        with pytest.raises((FailFast, ConnectFailed)):
            await ask(service)
        assert {endpoint.state for endpoint in service.statistics().endpoints} <= {"out", "probation"}


async def test_a_success_rate_puts_an_endpoint_out_that_fails_now_and_then(autojump_clock) -> None:
    fleet = Fleet()
    turns = iter(range(10**6))

    async def flaky(_) -> int:
        return 500 if next(turns) % 3 == 0 else 200

    fleet.behaviour[1] = flaky
    async with opened(balance(fleet, breaker=Breaker(consecutive=7, success_rate=0.8, floor=0))) as service:
        for _ in range(7):
            await ask(service)
        assert one(service).state == "out"
    assert current_registry().counter("balancer_ejections_total", "", balancer="", reason="success_rate").value == 1


@pytest.mark.parametrize("bad", [404, 302])
async def test_the_judge_may_be_another(bad, autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = bad

    def strict(status: int, grpc_status: str, error: str):
        return "failure" if status == bad else "success"

    async with opened(balance(fleet, classify=strict)) as service:
        for _ in range(3):
            await ask(service)
        assert one(service).state == "out"


@pytest.mark.parametrize(
    ("status", "headers", "rtt"),
    [
        (500, [], 5.0),
        (429, [], 5.0),
        (503, [("retry-after", "60")], 60.0),
        (429, [("retry-after", "1")], 5.0),
        (503, [("retry-after", "9999")], 300.0),
        (500, [("retry-after", "60")], 5.0),
        (404, [], 0.03),
    ],
)
async def test_failures_count_as_slow(status, headers, rtt, autojump_clock) -> None:
    # linkerd2-proxy: linkerd/load-biaser
    fleet = Fleet()

    async def answer(_) -> Response:
        return Response(status, headers)

    fleet.behaviour[1] = answer
    async with opened(Balance(known(1), fleet.replica, pick=P2c(penalty=5, peak=True))) as service:
        await ask(service)
        assert one(service).rtt == pytest.approx(rtt, rel=0.01)


async def test_a_penalty_ends_when_the_endpoint_is_back(autojump_clock) -> None:
    fleet = Fleet()
    fleet.behaviour[1] = 500
    async with opened(Balance(known(1), fleet.replica, breaker=ALONE, pick=P2c(penalty=5, peak=True))) as service:
        for _ in range(3):
            await ask(service)
        assert one(service).rtt == pytest.approx(5)
        await trio.sleep(1.5)
        fleet.behaviour[1] = 200
        await ask(service)
        assert one(service).rtt == pytest.approx(0.03)
