"""Backends of gRPC, grpcio on both ends, that are restarted and killed under load."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager

import pytest
import trio

from linkerd_proxy import Balance, Budget, Client, Connect, Retry, Static, Timeout
from tests.chaos.backend import SIZE
from tests.chaos.fleet import fleet, front, report
from tests.patience import PATIENCE

grpc = pytest.importorskip("grpc")

ROUNDS = int(os.environ.get("LINKERD_PROXY_TEST_RESTARTS", "1"))
PLENTY = Budget(1, 1000)
OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]


class Calls:
    """Calls at an even rate, each with an id that no other has, and a few long streams beside."""

    def __init__(self, address) -> None:
        self.address = str(address)
        self.over = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.streams: Counter[str] = Counter()
        self.failed: dict[str, tuple[float, float]] = {}
        """Those that failed, and when each began and ended."""
        self.changed = threading.Condition()
        self.ended: dict[str, float] = {}
        self.count = 0

    def run(self, rate: float, *, streams: bool) -> None:
        with grpc.insecure_channel(self.address, options=OPTIONS) as channel:
            echo = channel.unary_unary("/chaos.Test/Echo")
            many = channel.unary_stream("/chaos.Test/Many")
            threads, calls = [], []
            while not self.over.wait(1 / rate):
                self.count += 1
                name = f"/ok/{self.count}"
                calls.append((name, time.monotonic(), echo.future(name.encode(), timeout=PATIENCE)))
                calls[-1][2].add_done_callback(lambda _, name=name: self.note(name))
                if streams and self.count % 10 == 0:
                    threads.append(threading.Thread(target=self.read, args=(many, self.count)))
                    threads[-1].start()
            for name, began, call in calls:
                self.outcomes[self.outcome(name, began, call)] += 1
            for thread in threads:
                thread.join()

    def note(self, name: str) -> None:
        with self.changed:
            self.ended[name] = time.monotonic()
            self.changed.notify_all()

    async def wait_answered(self, more: int) -> None:
        """Return when so many more calls have ended: the time of these tests, on a machine of any speed."""
        wanted = len(self.ended) + more

        def wait() -> None:
            with self.changed:
                assert self.changed.wait_for(lambda: len(self.ended) >= wanted, PATIENCE)

        await trio.to_thread.run_sync(wait)

    def outcome(self, name: str, began: float, call) -> str:
        try:
            return "right" if call.result() == name.encode() else "wrong"
        except grpc.RpcError as error:
            self.failed[f"POST {name}"] = began, self.ended.get(name, time.monotonic())
            return error.code().name

    def read(self, many, number: int) -> None:
        try:
            size = sum(map(len, many(f"/many/{number}".encode(), timeout=PATIENCE)))
            self.streams["whole" if size == SIZE else "cut"] += 1
        except grpc.RpcError as error:
            self.streams[error.code().name] += 1


@asynccontextmanager
async def calling(address, rate: float, *, streams: bool = False):
    """Keep calls going inside the block, from a thread, and let every one end."""
    calls = Calls(address)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: trio.to_thread.run_sync(lambda: calls.run(rate, streams=streams)))
        try:
            yield calls
        finally:
            calls.over.set()


def balance(servers):
    return Balance(Static(*servers.addresses), lambda e: Client() | Connect(e.address), dice=random.Random(1))


@asynccontextmanager
async def proxied(retry: Retry, log, *, rest: float):
    """Run servers and a proxy before them, and yield both."""
    async with fleet("grpc", log, rest=rest) as servers, front(Timeout(PATIENCE) | retry | balance(servers)) as address:
        yield servers, address


# A server of grpcio that is being stopped answers CANCELLED to calls that it has not begun, until its clients know of
# it (grpc/grpc issue 41785): nothing but the word of its operator tells that from an application's own CANCELLED.
@pytest.mark.parametrize(
    "retry", [Retry(PLENTY, grpc="unavailable, cancelled"), Retry(PLENTY)], ids=["repeats", "is careful"]
)
async def test_restarts_cost_no_call_and_cut_no_stream(tmp_path, retry) -> None:
    with trio.fail_after(2 * PATIENCE + 10 * ROUNDS):
        async with proxied(retry, tmp_path / "log", rest=0.2) as (servers, address):
            async with calling(address, 100, streams=True) as calls:
                for number in [*range(3)] * ROUNDS:
                    await calls.wait_answered(30)
                    await servers.restart(number)
                await calls.wait_answered(20)
            got = servers.got()
    report(f"{calls.outcomes} {calls.streams}")
    assert max(got.values()) == 1, "a call was delivered twice"
    if retry.grpc:
        assert calls.outcomes == {"right": calls.count}
        assert calls.streams == {"whole": calls.count // 10}
    else:
        assert set(calls.outcomes) <= {"right", "CANCELLED"}
        assert set(calls.streams) <= {"whole", "CANCELLED"}
        assert not calls.failed.keys() & set(got), "a call failed that had been delivered"


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_killed_backend_costs_only_what_may_not_be_repeated(tmp_path, repeatable) -> None:
    retry = Retry(PLENTY, grpc="unavailable") if repeatable else Retry(PLENTY)
    away: list[tuple[float, float]] = []
    with trio.fail_after(2 * PATIENCE):
        async with proxied(retry, tmp_path / "log", rest=0.2) as (servers, address):
            async with calling(address, 200) as calls:
                for number in range(3):
                    await calls.wait_answered(60)
                    times, killed = servers.started[number], time.monotonic()
                    servers.signal(number, signal.SIGKILL)
                    await servers.wait_started(number, times + 1)
                    away.append((killed, time.monotonic()))
                await calls.wait_answered(40)
            got = servers.got()
    report(f"{calls.outcomes}")
    if repeatable:
        assert calls.outcomes == {"right": calls.count}
    else:
        assert set(calls.outcomes) <= {"right", "UNAVAILABLE"}
        for began, ended in calls.failed.values():
            assert any(ended >= killed and began <= back for killed, back in away), "it was not under way at a kill"
        assert max(got.values()) == 1, "a call was delivered twice"


async def test_no_stream_that_was_cut_looks_whole(tmp_path) -> None:
    count = 30
    seen: Counter[str] = Counter()
    begun = threading.Semaphore(0)

    def read(held, number: int) -> None:
        try:
            for _ in held(f"/held/{number}".encode(), timeout=PATIENCE):
                begun.release()
            seen["whole"] += 1
        except grpc.RpcError as error:
            seen[error.code().name] += 1

    def run(address) -> None:
        with grpc.insecure_channel(str(address), options=OPTIONS) as channel:
            held = channel.unary_stream("/chaos.Test/Held")
            threads = [threading.Thread(target=read, args=(held, number)) for number in range(count)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def wait_begun() -> None:
        for _ in range(count):
            assert begun.acquire(timeout=PATIENCE)

    with trio.fail_after(2 * PATIENCE):
        async with (
            proxied(Retry(grpc="unavailable"), tmp_path / "log", rest=0.1) as (servers, address),
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(trio.to_thread.run_sync, run, address)
            await trio.to_thread.run_sync(wait_begun)
            for number in range(3):
                servers.signal(number, signal.SIGKILL)
    assert seen == {"UNAVAILABLE": count}
