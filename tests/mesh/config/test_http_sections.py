"""Sections of a configuration that are about HTTP, each over real sockets: limits, rings, profiles, failover."""

import json
import socket
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from linkerd_proxy.core.message import Response
from linkerd_proxy.document.load import parse
from linkerd_proxy.io.dial import dial
from linkerd_proxy.mesh.config.build import build
from linkerd_proxy.mesh.config.dispatch import SocketOptions
from linkerd_proxy.mesh.config.read import structure
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.testing import http_origin, memory_connection, serving, tcp_origin
from tests.mesh.config.serving import document, get, served
from tests.patience import PATIENCE

LISTENER = {"address": "127.0.0.1:0", "backend_refs": ["app"]}


def proxy(backend, **listener):
    return {"listeners": {"web": LISTENER | listener}, "backends": {"app": backend}}


def at(*origins):
    return {"endpoints": [str(one.address) for one in origins]}


async def raw(address, data):
    """Return what comes back for some bytes, until the end or the end of a head."""
    async with await dial(address) as stream:
        await stream.send_all(data)
        answer = b""
        while b"\r\n\r\n" not in answer and (chunk := await stream.receive_some()):
            answer += chunk
        return answer


def told(entry):
    """Return what is wrong with a document, as (line, path, text)."""
    _, problems = structure(parse(json.dumps(entry, indent=1), "p.json"), "p.json")
    return [(one.line, one.path, one.text) for one in problems]


# --- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "request_", "status"),
    [
        ({"max_head": 2000}, b"GET / HTTP/1.1\r\nhost: x\r\nx-big: " + b"a" * 3000 + b"\r\n\r\n", 431),
        ({"max_fields": 3}, b"GET / HTTP/1.1\r\nhost: x\r\na: 1\r\nb: 1\r\nc: 1\r\n\r\n", 431),
        ({"max_target": 100}, b"GET /" + b"a" * 200 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414),
        (
            {"max_trailers": 10},
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-long: trailer\r\n\r\n",
            413,
        ),
        ({"strict_line_ends": True}, b"GET / HTTP/1.1\nhost: x\r\n\r\n", 400),
        ({}, b"GET / HTTP/1.1\r\nhost: x\r\nx-big: " + b"a" * 3000 + b"\r\n\r\n", 200),
    ],
)
async def test_limits_of_a_listener_are_answered_as_configured(limits, request_, status) -> None:
    async with http_origin() as origin, served(proxy(at(origin), limits=limits)) as where:
        assert (await raw(where["web"], request_)).startswith(b"HTTP/1.1 %d " % status)


async def test_limits_of_a_backend_bound_its_connections() -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def slow(_):
        begun.set()
        await go_on.wait()
        return Response(200)

    async with http_origin(slow) as origin:
        backend = at(origin) | {"limits": {"max_connections": 1, "max_waiting": 0}, "breaker": "off"}
        async with served(proxy(backend)) as where, trio.open_nursery() as nursery:
            nursery.start_soon(get, where["web"])
            await begun.wait()
            assert (await get(where["web"]))[0] == 503
            go_on.set()
        assert len(origin.requests) == 1


def test_limits_are_checked_with_their_lines_and_what_was_meant() -> None:
    entry = proxy(
        {"endpoints": [":1"]}, limits={"max_haed": 1, "max_fields": -1, "body_idle": 5, "h2_max_streams": 1 << 40}
    )
    assert told(entry) == [
        (9, "listeners.web.limits.max_haed", "there is no such key; did you mean 'max_head'?"),
        (10, "listeners.web.limits.max_fields", "-1 is out of range: give a number from 0 to 2147483647"),
        (11, "listeners.web.limits.body_idle", "expected a text like '10s', found the number 5"),
        (12, "listeners.web.limits.h2_max_streams", f"{1 << 40} is out of range: give a number from 0 to 2147483647"),
    ]


# --- rings ---------------------------------------------------------------------------------------


@asynccontextmanager
async def origins(count):
    """Run HTTP servers that answer with their number."""

    def answering(number):
        async def answer(_):
            return Response(200, (), str(number).encode())

        return answer

    async with AsyncExitStack() as exits:
        yield [await exits.enter_async_context(http_origin(answering(number))) for number in range(count)]


async def test_a_ring_sends_the_same_key_to_the_same_endpoint_whoever_asks() -> None:
    pick = {"pick": {"type": "ring", "key": {"header": "x-user"}}}
    async with origins(3) as three, AsyncExitStack() as exits:
        entry = proxy(at(*three) | {"balance": pick})
        proxies = [await exits.enter_async_context(served(entry)) for _ in range(2)]
        users = [str(number) for number in range(30)]
        seen = {}
        for where in (*proxies, *proxies):
            for user in users:
                status, body = await get(where["web"], headers=[("x-user", user)])
                assert status == 200
                seen.setdefault(user, set()).add(body)
        assert all(len(chosen) == 1 for chosen in seen.values())
        assert {body for chosen in seen.values() for body in chosen} == {b"0", b"1", b"2"}


async def test_a_ring_by_the_client_holds_for_raw_tcp_too() -> None:
    async with AsyncExitStack() as exits:
        three = [await exits.enter_async_context(tcp_origin()) for _ in range(3)]
        where = await exits.enter_async_context(
            served(proxy(at(*three) | {"balance": {"pick": {"type": "ring", "bound": 100}}}, protocol="tcp"))
        )
        for _ in range(6):
            async with await dial(where["web"]) as stream:
                await stream.send_all(b"ping")
                assert await stream.receive_some() == b"ping"
        assert sorted(one.connections for one in three) == [0, 0, 6]


def test_ways_to_pick_take_their_settings() -> None:
    for pick, shown in [
        ("ring", "Ring(key=Peer(), bound=1.25)"),
        ({"type": "ring", "bound": 2}, "Ring(key=Peer(), bound=2.0)"),
        ({"type": "p2c", "penalty": "5s", "peak": True}, "P2c(default_rtt=0.03, decay=10.0, penalty=5.0, peak=True)"),
        ({"type": "least_request", "choices": 3}, "LeastRequest(choices=3)"),
    ]:
        assert f"pick={shown}" in str(build(document(proxy({"endpoints": [":1"], "balance": {"pick": pick}}))))
    wrong = proxy({"endpoints": [":1"], "balance": {"pick": {"type": "rign"}}})
    assert told(wrong)[0][2] == "the text 'rign' is none of p2c, least_request, round_robin, ring; did you mean 'ring'?"
    for pick in ({"type": "ring", "bound": 1}, {"type": "p2c", "default_rtt": "0s"}, {"type": "ring", "key": "header"}):
        assert told(proxy({"endpoints": [":1"], "balance": {"pick": pick}}))


# --- profiles ------------------------------------------------------------------------------------


def flaky(failures, status=500):
    """Answer with a failure so many times for each path, and then well."""
    left = {}

    async def answer(request):
        count = left[request.path] = left.get(request.path, 0) + 1
        return Response(status if count <= failures else 200, (), str(count).encode())

    return answer


PROFILE = {
    "routes": [
        {"condition": {"path_regex": "/again", "method": "POST"}, "is_retryable": True, "labels": {"route": "again"}},
        {
            "condition": {"any": [{"path_regex": "/limited/.*"}, {"not": {"method": "POST"}}]},
            "response_classes": [
                {"condition": {"status": {"min": 429, "max": 429}}},
                {"condition": {"status": {"min": 500, "max": 599}}, "is_failure": False},
            ],
            "is_retryable": True,
        },
    ]
}


async def test_a_profile_says_what_may_be_repeated_and_what_a_failure_is() -> None:
    async with http_origin(flaky(2)) as origin, served(proxy(at(origin) | {"profile": PROFILE})) as where:
        assert await get(where["web"], "/again", method="POST") == (200, b"3")
        assert await get(where["web"], "/other", method="POST") == (500, b"1")
        assert await get(where["web"], "/read") == (500, b"1")  # 5xx is no failure there
        assert len(origin.requests) == 5
        registry = current_registry()
        labels = {"backend": "app", "route": "again", "protocol": "http/1"}
        assert registry.counter("request_total", "", **labels).value == 1
    async with http_origin(flaky(1, 429)) as origin, served(proxy(at(origin) | {"profile": PROFILE})) as where:
        assert await get(where["web"], "/limited/x", method="POST") == (200, b"2")
        assert await get(where["web"], "/again", method="POST") == (429, b"1")


async def test_a_profiles_budget_and_limit_bound_its_retries() -> None:
    profile = PROFILE | {"retry_limit": 1}
    async with http_origin(flaky(2)) as origin, served(proxy(at(origin) | {"profile": profile})) as where:
        assert await get(where["web"], "/again", method="POST") == (500, b"2")
    profile = PROFILE | {"retry_budget": {"retry_ratio": 0, "min_retries_per_second": 0}}
    async with http_origin(flaky(2)) as origin, served(proxy(at(origin) | {"profile": profile})) as where:
        assert await get(where["web"], "/again", method="POST") == (500, b"1")


async def test_a_profiles_timeout_is_answered_with_504() -> None:
    async def never(_):
        await trio.sleep_forever()

    profile = {"routes": [{"condition": {}, "timeout": "50ms"}]}
    async with http_origin(never) as origin, served(proxy(at(origin) | {"profile": profile})) as where:
        assert (await get(where["web"]))[0] == 504


async def test_overrides_of_a_profile_share_its_requests_by_weight() -> None:
    async with origins(3) as (old, new, unused):
        profile = {"dst_overrides": [{"name": "app", "weight": 3}, "new", {"name": "unused", "weight": 0}]}
        entry = proxy(at(old) | {"profile": profile})
        entry["backends"] |= {"new": at(new), "unused": at(unused)}
        async with served(entry) as where:
            for _ in range(20):
                assert (await get(where["web"]))[0] == 200
        counts = [len(one.requests) for one in (old, new, unused)]
        assert counts[2] == 0
        assert abs(counts[0] - 15) <= 2


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ({"profile": {"routes": [{"condition": {"path_regex": "("}}]}}, "can't be read"),
        ({"profile": {"routes": [{"condition": {"path_regexp": "/"}}]}}, "did you mean 'path_regex'?"),
        ({"profile": {"routes": [{"condition": {}, "timeout": "0s"}]}}, "give seconds greater than 0"),
        ({"profile": {"routes": [{"condition": {}, "labels": {"a-b": "c"}}]}}, "can't be the name of a label"),
        ({"profile": {"routes": [{"condition": {}, "labels": {"peer": "c"}}]}}, "is set by the proxy itself"),
        (
            {
                "profile": {
                    "routes": [
                        {"condition": {}, "response_classes": [{"condition": {"status": {"min": 500, "max": 400}}}]}
                    ]
                }
            },
            "the lower first",
        ),
        ({"profile": {"routes": [{"condition": {}, "is_retryable": True}]}, "retry": {}}, "keep one of them"),
        ({"profile": {"dst_overrides": ["nobody"]}}, "there is no backend 'nobody'"),
    ],
)
def test_profiles_that_can_not_be_are_told(backend, words) -> None:
    assert any(words in text for _, _, text in told(proxy({"endpoints": [":1"]} | backend)))


# --- failover ------------------------------------------------------------------------------------


async def test_work_goes_to_the_first_backend_that_is_ready(tmp_path) -> None:
    endpoints = tmp_path / "endpoints.json"
    endpoints.write_text('{"endpoints": []}')
    async with origins(2) as (first, second):
        entry = proxy({"first_available": ["main", "spare"]})
        entry["backends"] |= {"main": {"file": {"path": "endpoints.json", "interval": "10ms"}}, "spare": at(second)}
        async with served(entry, tmp_path) as where:
            assert await get(where["web"]) == (200, b"1")
            new = tmp_path / "new.json"
            new.write_text(json.dumps(at(first)))
            new.rename(endpoints)
            with trio.fail_after(PATIENCE):
                while await get(where["web"]) != (200, b"0"):
                    pass


def test_backends_that_lead_round_in_a_circle_are_told() -> None:
    entry = proxy({"first_available": ["a", "b"]})
    entry["backends"] |= {
        "a": {"endpoints": [":1"], "profile": {"dst_overrides": ["a", "b"]}},
        "b": {"first_available": ["app"]},
    }
    ((line, path, text),) = told(entry)
    assert text.startswith("the backends lead round in a circle, app to ")
    assert (line, path) == (14, "backends.app.first_available[1]")
    entry["backends"]["b"] = {"endpoints": [":1"]}
    assert told(entry) == []


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ({"first_available": ["x"], "balance": {"queue": 1}}, "balance says nothing of a backend with first_available"),
        ({"first_available": ["x"], "limits": {"max_head": 1}}, "limits says nothing"),
        ({"original_dst": True, "breaker": {"consecutive": 1}}, "breaker says nothing of a backend with original_dst"),
        ({"endpoints": [":1"], "peers": {"a:1": "b"}}, "peers are for original_dst"),
        ({"endpoints": [":1"], "source": "localhost"}, "is no IP address"),
        ({"endpoints": [":1"], "options": {"keepalive": "0s"}}, "no time span"),
        ({"endpoints": [":1"], "labels": {"backend": "x"}}, "is set by the proxy itself"),
        ({"endpoints": [{"address": ":1", "labels": {"a-b": "x"}}]}, "can't be the name of a label"),
        ({"file": {"path": "x", "interval": "0s"}}, "above 0"),
        ({"endpoints": [":1"], "tls": {"timeout": "0s"}}, "give more"),
    ],
)
def test_what_a_backend_has_no_use_for_is_told(backend, words) -> None:
    assert any(words in text for _, _, text in told(proxy(backend))), told(proxy(backend))


# --- the rest ------------------------------------------------------------------------------------


async def test_labels_of_ones_own_stand_beside_the_proxys() -> None:
    async with http_origin() as origin:
        entry = proxy(at(origin) | {"labels": {"team": "b"}}, labels={"direction": "inbound"})
        async with served(entry) as where:
            assert (await get(where["web"]))[0] == 200
        registry = current_registry()
        labels = {"listener": "web", "direction": "inbound", "protocol": "http/1"}
        assert registry.counter("request_total", "", **labels).value == 1
        dials = {"backend": "app", "team": "b", "peer": "dst", "protocol": "http/1"}
        assert registry.counter("tcp_open_total", "", **dials).value == 1


async def test_options_are_set_on_the_sockets_of_clients() -> None:
    entry = proxy({"endpoints": [":1"]}, protocol="tcp", options={"keepalive": "7s"})
    first = str(build(document(entry))).splitlines()[0]
    assert first == "SocketOptions(options=TcpOptions(keepalive=7.0, user_timeout=None))"
    layer = SocketOptions(document(entry).listeners["web"].options.value())
    found = trio.Event()

    async def look(connection):
        sock = connection.stream.socket
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
        found.set()

    async with tcp_origin(lambda connection: layer.serve(connection, look)) as origin, await dial(origin.address):
        with trio.fail_after(PATIENCE):
            await found.wait()
    _, connection = memory_connection()
    served_ = []

    async def note(one):
        served_.append(one)

    await layer.serve(connection, note)  # what is no socket has no options
    assert served_ == [connection]


async def test_the_half_open_time_is_the_files() -> None:
    entry = proxy({"endpoints": [":1"]}, protocol="tcp", half_open="5s")
    assert "Forward(half_open=5.0)" in str(build(document(entry)))
    async with serving(build(document(entry))) as _:
        pass
