"""Backends of gRPC, grpcio on both ends, that are restarted and killed under load."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from contextlib import asynccontextmanager

import pytest
import trio

from linkerd_proxy import Balance, Client, Connect, Retry, Static, Timeout
from tests.chaos.backend import SIZE
from tests.chaos.fleet import PATIENCE, fleet, front, report

grpc = pytest.importorskip("grpc")

ROUNDS = int(os.environ.get("LINKERD_PROXY_TEST_RESTARTS", "1"))
OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]


class Calls:
    """Calls at an even rate, each with an id that no other has, and a few long streams beside."""

    def __init__(self, address) -> None:
        self.address = str(address)
        self.over = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.streams: Counter[str] = Counter()
        self.failed: set[str] = set()
        self.count = 0

    def run(self, rate: float, *, streams: bool) -> None:
        with grpc.insecure_channel(self.address, options=OPTIONS) as channel:
            echo = channel.unary_unary("/chaos.Test/Echo")
            many = channel.unary_stream("/chaos.Test/Many")
            threads, calls = [], []
            while not self.over.wait(1 / rate):
                self.count += 1
                name = f"/ok/{self.count}"
                calls.append((name, echo.future(name.encode(), timeout=PATIENCE)))
                if streams and self.count % 10 == 0:
                    threads.append(threading.Thread(target=self.read, args=(many, self.count)))
                    threads[-1].start()
            for name, call in calls:
                self.outcomes[self.outcome(name, call)] += 1
            for thread in threads:
                thread.join()

    def outcome(self, name: str, call) -> str:
        try:
            return "right" if call.result() == name.encode() else "wrong"
        except grpc.RpcError as error:
            self.failed.add(f"POST {name}")
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
    async with fleet("grpc", log, rest=rest) as servers, front(Timeout(20) | retry | balance(servers)) as address:
        yield servers, address


# A server of grpcio that is being stopped answers CANCELLED to calls that it has not begun, until its clients know of
# it (grpc/grpc issue 41785): nothing but the word of its operator tells that from an application's own CANCELLED.
@pytest.mark.parametrize("retry", [Retry(grpc="unavailable, cancelled"), Retry()], ids=["repeats", "is careful"])
async def test_restarts_cost_no_call_and_cut_no_stream(tmp_path, retry) -> None:
    with trio.fail_after(2 * PATIENCE + 10 * ROUNDS):
        async with proxied(retry, tmp_path / "log", rest=0.2) as (servers, address):
            async with calling(address, 100, streams=True) as calls:
                for number in [*range(3)] * ROUNDS:
                    await trio.sleep(0.3)
                    await servers.restart(number)
                await trio.sleep(0.2)
            got = servers.got()
    report(f"{calls.outcomes} {calls.streams}")
    assert max(got.values()) == 1, "a call was delivered twice"
    if retry.grpc:
        assert calls.outcomes == {"right": calls.count}
        assert calls.streams == {"whole": calls.count // 10}
    else:
        assert set(calls.outcomes) <= {"right", "CANCELLED"}
        assert set(calls.streams) <= {"whole", "CANCELLED"}
        assert not calls.failed & set(got), "a call failed that had been delivered"


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_killed_backend_costs_only_what_may_not_be_repeated(tmp_path, repeatable) -> None:
    retry = Retry(grpc="unavailable") if repeatable else Retry()
    with trio.fail_after(2 * PATIENCE):
        async with proxied(retry, tmp_path / "log", rest=0.2) as (servers, address):
            async with calling(address, 200) as calls:
                for number in range(3):
                    await trio.sleep(0.3)
                    times = servers.started[number]
                    servers.signal(number, signal.SIGKILL)
                    await servers.wait_started(number, times + 1)
                await trio.sleep(0.2)
            got = servers.got()
    report(f"{calls.outcomes}")
    if repeatable:
        assert calls.outcomes == {"right": calls.count}
    else:
        assert set(calls.outcomes) <= {"right", "UNAVAILABLE"}
        assert calls.outcomes["right"] >= calls.count - 15
        assert max(got.values()) == 1, "a call was delivered twice"


async def test_no_stream_that_was_cut_looks_whole(tmp_path) -> None:
    with trio.fail_after(2 * PATIENCE):
        async with (
            proxied(Retry(grpc="unavailable"), tmp_path / "log", rest=0.1) as (servers, address),
            calling(address, 100, streams=True) as calls,
        ):
            await trio.sleep(0.6)
            for number in range(3):
                servers.signal(number, signal.SIGKILL)
    report(f"{calls.streams}")
    assert calls.streams["cut"] == 0
    assert calls.streams["UNAVAILABLE"] >= 3
    assert set(calls.streams) <= {"whole", "cut", "UNAVAILABLE"}
