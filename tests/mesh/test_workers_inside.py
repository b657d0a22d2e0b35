"""What the admin endpoint shows of several workers: their traffic, tasks, logs and endpoints as one."""

from __future__ import annotations

import json
import logging
import os
import signal

import pytest
import trio

from linkerd_proxy.core.drain import Drain
from linkerd_proxy.errors import InvalidConfiguration, Overloaded
from linkerd_proxy.io.dial import dial
from linkerd_proxy.mesh import worker_process
from linkerd_proxy.mesh.gathered import GatheredTap
from linkerd_proxy.mesh.observed import Observed, SeenEndpoint, SeenFailure, together
from linkerd_proxy.mesh.tap_stream import TapWish, wish_of_query
from linkerd_proxy.mesh.workers import run_workers
from linkerd_proxy.metrics.tap_events import (
    ConnectionClosed,
    ConnectionOpened,
    RequestBegun,
    ResponseBegun,
    ResponseEnded,
    packed,
    unpacked,
)
from linkerd_proxy.metrics.taps import BUFFER, MAX_TAPS

PATIENCE = 30  # seconds for what takes one: a loaded machine is no failure

APPLICATION = """
import logging, os
from linkerd_proxy import *

async def pid(request):
    if request.path == "/log":
        logging.getLogger("linkerd_proxy.mine").warning("a line of %d", os.getpid())
    return Response(200, (), str(os.getpid()).encode())

proxy = Http() | Tap({"direction": "inbound"}) | handler(pid)
"""


@pytest.fixture
async def workers(nursery, tmp_path):
    (tmp_path / "application.py").write_text(APPLICATION)
    with trio.fail_after(PATIENCE):
        return await nursery.start(
            lambda *, task_status: run_workers(
                f"{tmp_path}/application.py:proxy", ["127.0.0.1:0"], workers=2, drain=Drain(5), task_status=task_status
            )
        )


async def ask(workers, path="/"):
    """Return the process id of the worker that answers on a new connection."""
    async with await dial(workers.addresses[0]) as stream:
        await stream.send_all(b"GET %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % path.encode())
        data = b""
        while chunk := await stream.receive_some():
            data += chunk
    assert data.startswith(b"HTTP/1.1 200 ")
    return int(data.rpartition(b"\r\n\r\n")[2])


async def ask_all(workers, path="/"):
    """Ask until each of the workers has answered; return how often."""
    seen, count = set(), 0
    while seen != set(workers.pids):
        seen.add(await ask(workers, path))
        count += 1
    return count


async def events_of(tap, count):
    found = []
    while len(found) < count:
        events, dropped = await tap.next_batch(1.0)
        assert not dropped
        found += events
    return found


# --- live traffic ----------------------------------------------------------------------------------------------------


async def test_a_tap_shows_the_requests_of_all_workers(workers):
    with trio.fail_after(PATIENCE):
        async with workers.tapped(wish_of_query("path=/seen&headers=true")) as tap:
            await ask(workers, "/other")
            count = await ask_all(workers, "/seen")
            events = await events_of(tap, 3 * count)
    begun = [event for event in events if isinstance(event, RequestBegun)]
    assert [event.path for event in begun] == ["/seen"] * count
    assert {dict(event.labels)["worker"] for event in begun} == set(map(str, workers.pids))
    assert {dict(event.labels)["direction"] for event in begun} == {"inbound"}
    assert len({event.id for event in begun}) == count
    ended = [event for event in events if isinstance(event, ResponseEnded)]
    assert sorted(event.id for event in ended) == sorted(event.id for event in begun)


async def test_the_limit_counts_what_all_workers_show_and_then_the_tap_ends(workers):
    with trio.fail_after(PATIENCE):
        async with workers.tapped(TapWish("query", "", limit=5)) as tap:
            asked = 0
            while asked < 5 or len(workers.pids) < 2:
                asked += await ask_all(workers)
            events = []
            while (batch := await tap.next_batch(1.0)) is not None:
                events += batch[0]
    kinds = [type(event) for event in events]
    assert (kinds.count(RequestBegun), kinds.count(ResponseEnded)) == (5, 5)


async def test_a_slow_reader_loses_events_and_no_request_waits(workers):
    with trio.fail_after(PATIENCE):
        async with workers.tapped(TapWish("query", "")) as tap:
            total = BUFFER  # three events each
            for _ in range(total):
                await ask(workers)
            while tap.dropped < 3 * total - BUFFER:
                await trio.lowlevel.checkpoint()
            events, dropped = await tap.next_batch(1.0)
    assert len(events) == BUFFER
    assert len(events) + dropped == 3 * total
    assert tap.dropped == dropped


async def test_a_worker_that_is_started_meanwhile_is_looked_at_too(workers):
    with trio.fail_after(PATIENCE):
        async with workers.tapped(TapWish("query", "")) as tap:
            victim, _ = workers.pids
            os.kill(victim, signal.SIGKILL)
            while victim in workers.pids or not workers.ready:
                await trio.lowlevel.checkpoint()
            events = await events_of(tap, 3 * await ask_all(workers))
    shown = {dict(event.labels)["worker"] for event in events if isinstance(event, RequestBegun)}
    assert shown == set(map(str, workers.pids))


async def test_what_means_nothing_is_refused_here(workers):
    with pytest.raises(InvalidConfiguration, match="nothing that a tap can look for"):
        wish_of_query("colour=red")
    with pytest.raises(InvalidConfiguration, match="limit is 0"):
        async with workers.tapped(TapWish("query", "", limit=0)):
            pass


async def test_taps_are_bounded(workers):
    async with trio.open_nursery() as nursery:

        async def hold(*, task_status):
            async with workers.tapped(TapWish("query", "")):
                task_status.started()
                await trio.sleep_forever()

        for _ in range(MAX_TAPS):
            await nursery.start(hold)
        with pytest.raises(Overloaded, match="taps are open already"):
            async with workers.tapped(TapWish("query", "")):
                pass
        nursery.cancel_scope.cancel()
    with trio.fail_after(PATIENCE):  # those that were closed are closed in the workers too
        async with workers.tapped(TapWish("query", "")) as tap:
            assert len(await events_of(tap, 3 * await ask_all(workers))) >= 6


async def tasks_of(workers):
    return (await (await workers.tasks()).read()).decode().splitlines()


# --- tasks, logs, endpoints ------------------------------------------------------------------------------------------


async def test_tasks_are_named_by_their_worker(workers):
    with trio.fail_after(PATIENCE):
        lines = await tasks_of(workers)
    heads = [line for line in lines if not line.startswith(" ")]
    first, second = workers.pids
    assert heads == [f"parent {os.getpid()}", f"worker {first}, number 0", f"worker {second}, number 1"]
    assert sum("Accepting" in line or "serve" in line for line in lines) >= 2


async def test_a_worker_that_hangs_is_told_as_such(workers, monkeypatch):
    monkeypatch.setattr("linkerd_proxy.mesh.workers._ANSWER", 0.1)
    monkeypatch.setattr(worker_process, "_MAX_OWED", 1)
    hanging, _ = workers.pids
    os.kill(hanging, signal.SIGSTOP)
    try:
        with trio.fail_after(PATIENCE):
            for _ in range(3):  # asked again and again, and nothing piles up
                lines = await tasks_of(workers)
                at = lines.index(f"worker {hanging}, number 0")
                assert lines[at + 1] == "    it did not answer within 0.1 s"
                await workers.observed()
    finally:
        os.kill(hanging, signal.SIGCONT)


async def test_logs_are_of_all_workers(workers):
    level = logging.getLogger("linkerd_proxy").level
    try:
        with trio.fail_after(PATIENCE):
            async with workers.logged("warn") as stream:
                logging.getLogger("linkerd_proxy").warning("a line of the parent")
                count = await ask_all(workers, "/log")
                lines = []
                while len(lines) < count + 1:
                    lines += map(json.loads, (await stream.next_batch(1.0))[0])
        said = {(line.get("worker"), line["fields"]["message"]) for line in lines}
        assert said == {(None, "a line of the parent"), *((pid, f"a line of {pid}") for pid in workers.pids)}
        workers.apply_log_level("error")
        with trio.fail_after(PATIENCE):
            async with workers.logged("trace") as stream:
                await workers.tasks()  # answers come in order: the level was set before
                await ask_all(workers, "/log")
                await workers.tasks()
                assert (await stream.next_batch(0.0)) == ([], 0)
    finally:
        logging.getLogger("linkerd_proxy").setLevel(level)


def test_endpoints_that_workers_share_are_one():
    def seen(address="10.0.0.1:80", state="ready", **changes):
        values = {"in_flight": 1, "rtt": 0.1, "picked": 10, "failed": 1} | changes
        return SeenEndpoint("api", address, "api.mesh", state, **values)

    failure = SeenFailure(3.0, "UF", "no", "a")
    one = Observed((seen(), seen("10.0.0.2:80")), (failure,))
    two = Observed((seen(state="out", rtt=0.4, picked=20),), (SeenFailure(1.0, "UT", "late", "b"), failure))
    whole = together([one, two, Observed()])
    first, second = whole.endpoints
    assert (first.in_flight, first.picked, first.failed, round(first.rtt, 3)) == (2, 30, 2, 0.3)
    assert (first.state, second.state) == ("out in 1 of 2 workers", "ready")
    assert second == seen("10.0.0.2:80")
    assert [one.ago for one in whole.failures] == [3.0, 3.0, 1.0]
    assert Observed.from_data(json.loads(json.dumps(whole.as_data()))) == whole
    (idle,) = together([Observed((seen(picked=0),)), Observed((seen(picked=0, rtt=0.3),))]).endpoints
    assert round(idle.rtt, 3) == 0.2


# --- the merged tap, without processes -------------------------------------------------------------------------------


def begun(number, **changes):
    head = {"method": "GET", "scheme": "http", "authority": "a", "path": "/", "version": "1.1"}
    where = {"source": "s", "destination": "d", "client_id": "", "server_name": ""}
    return RequestBegun(number, (("direction", "inbound"),), **where, **head, **changes)


def ended(number):
    return ResponseEnded(number, 200, 0.1, 0, 5, "", "", (("grpc-status", "0"),))


EVENTS = [
    begun(7, headers=(("a", "b"), ("a", "c"))),
    ResponseBegun(7, 200, 0.25, (("x", "y"),)),
    ended(7),
    ConnectionOpened(8, (), "s", "d", "web.mesh", "", "opaque"),
    ConnectionClosed(8, 1.5, 1, 2, "UC"),
]


def test_events_cross_unchanged():
    assert [unpacked(json.loads(json.dumps(packed(event)))) for event in EVENTS] == EVENTS


async def test_what_is_beyond_the_limit_is_not_shown_and_not_waited_for():
    tap = GatheredTap(TapWish("query", "", limit=2))
    tap.take(1, [packed(begun(1)), packed(begun(2))], 0)
    tap.take(2, [packed(begun(1)), packed(ended(1))], 0)
    events, dropped = await tap.next_batch(1.0)
    assert ([event.id for event in events], dropped) == ([1, 2], 0)
    tap.take(1, [packed(ended(1)), packed(ended(2))], 0)
    events, _ = await tap.next_batch(1.0)
    assert [event.id for event in events] == [1, 2]
    assert await tap.next_batch(1.0) is None


async def test_an_end_that_may_have_been_dropped_is_not_waited_for():
    tap = GatheredTap(TapWish("query", "", limit=2))
    tap.take(1, [packed(begun(1)), packed(begun(2))], 0)
    tap.take(1, [packed(ended(1))], 3)
    events, dropped = await tap.next_batch(1.0)
    assert (len(events), dropped) == (3, 3)
    assert await tap.next_batch(1.0) is None


async def test_nothing_is_waited_for_of_a_worker_that_is_gone():
    tap = GatheredTap(TapWish("query", "", limit=2))
    tap.take(1, [packed(begun(1))], 0)
    tap.take(2, [packed(begun(1)), packed(ended(1))], 0)
    assert len((await tap.next_batch(1.0))[0]) == 3
    tap.leave(1)
    assert await tap.next_batch(1.0) is None
    assert "GatheredTap" in repr(tap)


async def test_silence_is_an_empty_batch(autojump_clock):
    tap = GatheredTap(TapWish("query", ""))
    assert await tap.next_batch(10.0) == ([], 0)
    assert trio.current_time() == 10.0
