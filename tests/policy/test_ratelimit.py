"""Bounds on requests a second, in all and from each client."""

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from linkerd_proxy.address import Address, AnyAddress, UnixAddress
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Connection, Exchange, Tls
from linkerd_proxy.errors import InvalidConfiguration, RateLimited
from linkerd_proxy.http.handler import handler
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.policy import RateLimit, RateOverride
from linkerd_proxy.policy.gcra import Gcra
from linkerd_proxy.testing import call, check_layer, memory_connection


async def hello(_: Request) -> Response:
    return Response(200)


HERE = Address("127.0.0.1", 1)


async def ask(service, identity: str | None = None, peer: AnyAddress = HERE) -> int:
    tls = Tls(peer_identity=identity) if identity else None
    async with call(service, Request(), connection=memory_connection(tls=tls, peer=peer)[1]) as response:
        return response.status


def limited(limit: RateLimit):
    return opened(Rescue() | limit | handler(hello))


async def many(service, count: int, identity: str | None = None) -> list[int]:
    return [await ask(service, identity) for _ in range(count)]


def refused(by: str) -> float:
    return current_registry().counter("rate_limited_total", "", by=by).value


async def test_the_total_bounds_all_clients_together(autojump_clock) -> None:
    async with limited(RateLimit(total=3)) as service:
        assert await many(service, 2, "a") == [200, 200]
        assert await many(service, 2, "b") == [200, 429]
        await trio.sleep(1 / 3 + 1e-6)
        assert await many(service, 2) == [200, 429]
        await trio.sleep(10)
        assert await many(service, 4) == [200, 200, 200, 429]
    assert refused("total") == 3


async def test_each_identity_has_its_own_rate(autojump_clock) -> None:
    async with limited(RateLimit(identity=1)) as service:
        assert await many(service, 2, "a") == [200, 429]
        assert await many(service, 2, "b") == [200, 429]
    assert refused("identity") == 2


async def test_all_clients_without_an_identity_share_one_rate(autojump_clock) -> None:
    async with limited(RateLimit(identity=1)) as service:
        assert await many(service, 2) == [200, 429]


async def test_each_address_without_an_identity_may_have_its_own_rate(autojump_clock) -> None:
    async with limited(RateLimit(identity=2, address=1)) as service:

        async def by(host: str, count: int = 2) -> list[int]:
            return [await ask(service, None, Address(host, 1000 + turn)) for turn in range(count)]

        assert await by("10.0.0.1") == [200, 429]  # whatever the port
        assert await by("10.0.0.2") == [200, 429]
        assert await by("2001:db8::1") == [200, 429]
        assert await by("2001:db8::2:3", 1) == [429]  # who has one address has all of that network
        assert await by("2001:db8:0:1::1") == [200, 429]
        assert await by("fe80::1%eth0") == [200, 429]
        assert await many(service, 3, "a") == [200, 200, 429]
        assert [await ask(service, None, UnixAddress("")) for _ in range(2)] == [200, 429]
    assert (refused("address"), refused("identity")) == (7, 1)


async def test_addresses_take_no_room_from_identities(autojump_clock) -> None:
    async with limited(RateLimit(identity=1, address=1, max_clients=2)) as service:
        assert await ask(service, "a") == 200
        addresses = [Address(f"10.0.0.{last}", 1) for last in range(5)]
        # No room: those from the third on share one.
        assert [await ask(service, None, one) for one in addresses] == [200, 200, 200, 429, 429]
        assert await many(service, 2, "b") == [200, 429]
        assert await ask(service, "a") == 429  # still known
        await trio.sleep(2)
        assert await ask(service, None, addresses[4]) == 200


async def test_an_address_is_told_why(autojump_clock) -> None:
    async with limited(RateLimit(address=1)) as service:
        await ask(service)
        async with call(service, Request(), connection=memory_connection(peer=Address("127.0.0.1", 9))[1]) as response:
            assert "1 requests a second of 127.0.0.1 without an identity is used up" in str(
                response.headers["l5d-proxy-error"]
            )


async def test_an_override_takes_the_place_of_the_identitys_rate(autojump_clock) -> None:
    async with limited(
        RateLimit(identity=1, overrides=[RateOverride(3, ["vip", "vip2"]), RateOverride(0.1, ["bad"])])
    ) as service:
        assert await many(service, 2, "vip") == [200, 200]
        assert await many(service, 2, "vip2") == [200, 429]
        assert await many(service, 2, "bad") == [200, 429]
        assert await many(service, 2, "other") == [200, 429]
    assert (refused("override"), refused("identity")) == (2, 1)


async def test_an_override_alone_leaves_the_others_unbounded(autojump_clock) -> None:
    async with limited(RateLimit(overrides=[RateOverride(1, ["bad"])])) as service:
        assert await many(service, 2, "bad") == [200, 429]
        assert await many(service, 50, "other") == [200] * 50


async def test_what_an_identity_asks_too_much_is_not_taken_off_the_total(autojump_clock) -> None:
    async with limited(RateLimit(total=10, identity=2)) as service:
        assert (await many(service, 50, "greedy")).count(200) == 2
        assert await many(service, 2, "modest") == [200, 200]
        assert refused("total") == 0


async def test_the_total_comes_first(autojump_clock) -> None:
    async with limited(RateLimit(total=1, identity=1)) as service:
        assert await many(service, 2, "a") == [200, 429]
    assert (refused("total"), refused("identity")) == (1, 0)


async def test_the_answer_says_when_to_come_again(autojump_clock) -> None:
    async with limited(RateLimit(identity=0.1)) as service:
        assert await ask(service) == 200
        await trio.sleep(2.5)
        async with call(service, Request()) as response:
            assert (response.status, response.headers["retry-after"]) == (429, "8")
            assert response.headers["l5d-proxy-error"] == (
                "RL RateLimit: the rate of 0.1 requests a second of all clients without an identity together is used up; "
                "send less, or raise the rate limit that the message names"
            )
        await trio.sleep(7.51)
        assert await ask(service) == 200


async def test_grpc_callers_get_resource_exhausted(autojump_clock) -> None:
    async with limited(RateLimit(total=1)) as service:
        assert await ask(service) == 200
        request = Request("POST", "/a/b", [("content-type", "application/grpc")], version="2")
        async with call(service, request) as response:
            assert (response.status, response.headers["grpc-status"]) == (200, "8")


async def test_bursts_are_as_long_as_one_says(autojump_clock) -> None:
    async with limited(RateLimit(total=10, burst=0.5)) as service:
        assert (await many(service, 10)).count(200) == 5


async def test_the_memory_for_identities_is_bounded(autojump_clock) -> None:
    async with limited(RateLimit(identity=1, max_clients=3)) as service:
        assert [await ask(service, name) for name in "abc"] == [200] * 3
        # No room: d and e share one.
        assert await ask(service, "d") == 200
        assert await ask(service, "e") == 429
        assert await ask(service, "a") == 429
        await trio.sleep(2)  # those who were quiet are forgotten
        assert [await ask(service, name) for name in "def"] == [200] * 3


async def test_it_bounds_connections_too(autojump_clock) -> None:
    served: list[Connection] = []

    async def inner(connection: Connection) -> None:
        served.append(connection)

    async with RateLimit[Connection](total=1).open(inner) as service:
        await service(memory_connection()[1])
        with pytest.raises(RateLimited):
            await service(memory_connection()[1])
    assert len(served) == 1


async def test_it_is_a_layer() -> None:
    def make() -> Exchange:
        async def respond(_: Response) -> None: ...

        return Exchange(Request(), respond, memory_connection()[1])

    await check_layer(
        RateLimit(total=1e6, identity=1e6, overrides=[RateOverride(1e6, ["a"])], burst=2, max_clients=9), make
    )


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: RateLimit(total=0), "a rate of 0 lets nothing pass"),
        (lambda: RateLimit(identity=-1), "a rate of -1"),
        (lambda: RateLimit(overrides=[RateOverride(0, ["a"])]), "a rate of 0"),
        (lambda: RateLimit(overrides=[RateOverride(1, ["a"]), RateOverride(2, ["a"])]), "'a' is in two overrides"),
        (lambda: RateOverride(1, []), "holds for nobody"),
        (lambda: RateLimit(burst=0), "burst"),
        (lambda: RateLimit(max_clients=0), "max_clients"),
    ],
)
def test_what_can_not_be_is_refused(build, text) -> None:
    with pytest.raises(InvalidConfiguration, match=text):
        build()


# --- GCRA -----------------------------------------------------------------------------------------------------------

gaps = st.lists(st.floats(0, 3), min_size=1, max_size=60)


@settings(max_examples=300, deadline=None)
@given(gaps, st.floats(0.2, 20), st.integers(1, 10))
def test_no_stretch_of_time_lets_more_pass_than_burst_and_rate_allow(gaps, rate, burst) -> None:
    bucket, now = Gcra(rate, burst), 0.0
    passed: list[float] = []
    for gap in gaps:
        now += gap
        if not bucket.wait(now):
            bucket.take(now)
            passed.append(now)
    for first, start in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= burst + rate * (passed[last] - start) + 1e-6


@settings(max_examples=300, deadline=None)
@given(gaps, st.floats(0.2, 20), st.integers(1, 10))
def test_whoever_waits_as_long_as_told_passes_and_never_one_who_comes_earlier(gaps, rate, burst) -> None:
    bucket, now = Gcra(rate, burst), 0.0
    for gap in gaps:
        now += gap
        wait = bucket.wait(now)
        if wait:
            assert bucket.wait(now + wait * 0.99) > 0
            assert bucket.wait(now + wait + 1e-9) == 0
        else:
            bucket.take(now)


@given(st.floats(0.2, 20), st.integers(1, 10))
def test_a_bucket_that_is_full_lets_a_burst_pass_and_no_more(rate, burst) -> None:
    bucket = Gcra(rate, burst)
    passed = 0
    while bucket.wait(100.0) <= 1e-9:
        bucket.take(100.0)
        passed += 1
    assert passed == burst
