"""Balancing over real sockets: one of three backends dies by kill -9, or hangs."""

import random
import re
import signal
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from linkerd_proxy import Balance, Budget, Client, Connect, P2c, Request, Retry, RoundRobin, Static, Timeout, opened
from linkerd_proxy.testing import call, http_origin
from tests.patience import PATIENCE

HANDLER = Path(__file__).parents[2] / "examples" / "handler.py"


@asynccontextmanager
async def backend():
    """Run a server in a process of its own, and yield the process and its address."""
    process = await trio.lowlevel.open_process([sys.executable, HANDLER, "127.0.0.1:0"], stdout=subprocess.PIPE)
    try:
        said = b""
        with trio.fail_after(PATIENCE):
            while not (found := re.search(rb"listening on (\S+)\n", said)):
                said += await process.stdout.receive_some()
        yield process, found[1].decode()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await process.stdout.aclose()


async def load(service, count: int, rate: float) -> Counter:
    """Ask so many times, and so often a second, each request in a task of its own; return how they ended."""
    outcomes: Counter[str] = Counter()

    async def ask() -> None:
        try:
            async with call(service, Request(authority="web.example")) as response:
                await response.body.read()
            outcomes[str(response.status)] += 1
        except Exception as error:
            outcomes[repr(error)] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(ask)
            await trio.sleep(1 / rate)
    return outcomes


@pytest.mark.parametrize("pick", [P2c(), RoundRobin()], ids=repr)
async def test_a_backend_that_dies_under_load_costs_no_idempotent_request(pick) -> None:
    with trio.fail_after(2 * PATIENCE):
        async with backend() as (victim, one), backend() as (_, two), backend() as (_, three):
            balance = Balance(
                Static(one, two, three), lambda e: Client() | Connect(e.address), pick=pick, dice=random.Random(1)
            )
            async with opened(Retry(Budget(1, 1000)) | balance) as service:
                outcomes = await load(service, 200, 200.0)
                victim.kill()
                outcomes += await load(service, 200, 200.0)
                victim_now, *others = balancer_of(service)
                picked, since = victim_now.picked, trio.current_time()
                outcomes += await load(service, 200, 200.0)
                victim_then, *others = balancer_of(service)
            assert all(other.state == "ready" for other in others)
            # Out of rotation: a probe, and one more for each second of backoff that has passed.
            assert victim_then.picked - picked <= 2 + trio.current_time() - since
            if isinstance(pick, RoundRobin):  # P2C may not have asked it again
                assert victim_then.state in {"out", "probation", "probing"}
    assert outcomes == {"200": 600}


async def test_a_backend_that_hangs_is_out_after_a_few_deadlines() -> None:
    with trio.fail_after(2 * PATIENCE):
        async with backend() as (victim, one), backend() as (_, two):

            def replica(endpoint):
                # The deadline is what finds it.
                return Timeout(2) | Client() | Connect(endpoint.address)

            balance = Balance(Static(one, two), replica, pick=RoundRobin(), dice=random.Random(1))
            async with opened(balance) as service:
                await load(service, 50, 100.0)
                victim.send_signal(signal.SIGSTOP)
                await load(service, 50, 100.0)  # returns when the last one that hung has met its deadline
                hung, _ = balancer_of(service)
                assert hung.state != "ready"
                outcomes = await load(service, 50, 100.0)
                then, _ = balancer_of(service)
    assert outcomes.total() - outcomes["200"] <= then.picked - hung.picked <= 5


def balancer_of(_service):
    from linkerd_proxy.balance.statistics import current_balancers

    return current_balancers()[0].statistics().endpoints


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_the_connections_of_an_endpoint_are_used_again(version) -> None:
    with trio.fail_after(PATIENCE):
        async with http_origin() as one, http_origin() as two:
            stack = Balance(Static(one.address, two.address), lambda e: Client() | Connect(e.address))
            async with opened(stack) as service:
                for _ in range(40):
                    request = Request(authority="web.example", version=version)
                    async with call(service, request) as response:
                        await response.body.read()
            assert len(one.requests) + len(two.requests) == 40
            assert one.connections <= 1
            assert two.connections <= 1
