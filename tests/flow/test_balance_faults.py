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

from linkerd_proxy import Balance, Client, Connect, P2c, Request, Retry, RoundRobin, Static, Timeout, opened
from linkerd_proxy.testing import call, http_origin

HANDLER = Path(__file__).parents[2] / "examples" / "handler.py"
PATIENCE = 30


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


async def load(service, seconds: float, rate: float, outcomes: Counter) -> None:
    """Ask so many times a second, each request in a task of its own."""

    async def ask() -> None:
        try:
            async with call(service, Request(authority="web.example")) as response:
                await response.body.read()
            outcomes[str(response.status)] += 1
        except Exception as error:
            outcomes[repr(error)] += 1

    ends = trio.current_time() + seconds
    async with trio.open_nursery() as nursery:
        while trio.current_time() < ends:
            nursery.start_soon(ask)
            await trio.sleep(1 / rate)


@pytest.mark.parametrize("pick", [P2c(), RoundRobin()], ids=repr)
async def test_a_backend_that_dies_under_load_costs_no_idempotent_request(pick) -> None:
    outcomes: Counter[str] = Counter()
    with trio.fail_after(2 * PATIENCE):
        async with backend() as (victim, one), backend() as (_, two), backend() as (_, three):
            balance = Balance(
                Static(one, two, three), lambda e: Client() | Connect(e.address), pick=pick, dice=random.Random(1)
            )
            async with opened(Retry() | balance) as service, trio.open_nursery() as nursery:
                nursery.start_soon(load, service, 3.0, 200.0, outcomes)
                await trio.sleep(1)
                victim.kill()
                await trio.sleep(1)
                victim_now, *others = balancer_of(service)
                picked = victim_now.picked
                await trio.sleep(0.9)
                victim_then, *others = balancer_of(service)
            assert all(other.state == "ready" for other in others)
            # Out of rotation within a second: probes, no more.
            assert victim_then.picked - picked <= 3
            if isinstance(pick, RoundRobin):  # P2C may not have asked it again
                assert victim_then.state in {"out", "probation", "probing"}
    assert set(outcomes) == {"200"}, outcomes
    assert outcomes["200"] > 300


async def test_a_backend_that_hangs_is_out_after_a_few_deadlines() -> None:
    outcomes: Counter[str] = Counter()
    with trio.fail_after(2 * PATIENCE):
        async with backend() as (victim, one), backend() as (_, two):

            def replica(endpoint):
                # The deadline is what finds it.
                return Timeout(0.3) | Client() | Connect(endpoint.address)

            balance = Balance(Static(one, two), replica, pick=RoundRobin(), dice=random.Random(1))
            async with opened(balance) as service:
                await load(service, 0.5, 100.0, outcomes)
                victim.send_signal(signal.SIGSTOP)
                await load(service, 1.5, 100.0, outcomes)
                assert balancer_of(service)[0].state != "ready"
                outcomes.clear()
                await load(service, 0.5, 100.0, outcomes)
    assert outcomes["200"] > 0.9 * outcomes.total()


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
