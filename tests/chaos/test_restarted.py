"""Rolling restarts of all backends under load, SIGTERM one by one: no request of any method fails."""

from __future__ import annotations

import os
import random

import pytest
import trio

from linkerd_proxy import Balance, Budget, Client, Connect, Retry, Static, Timeout, opened
from tests.chaos.fleet import Load, fleet, front, loading, report
from tests.patience import PATIENCE

ROUNDS = int(os.environ.get("LINKERD_PROXY_TEST_RESTARTS", "1"))
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@pytest.mark.parametrize("kind", ["http1", "http2"])
async def test_restarts_cost_no_request_of_any_method(tmp_path, kind) -> None:
    with trio.fail_after(2 * PATIENCE + 10 * ROUNDS):
        async with fleet(kind, tmp_path / "log", rest=0.2) as servers:
            balance = Balance(
                Static(*servers.addresses), lambda e: Client() | Connect(e.address), dice=random.Random(1)
            )
            async with (
                front(Timeout(PATIENCE) | Retry(Budget(1, 1000), limit=3) | balance) as address,
                opened(Client() | Connect(address)) as client,
            ):
                load = Load(client, "1.1" if kind == "http1" else "2", METHODS)
                async with loading(load, 200):
                    for number in [*range(3)] * ROUNDS:
                        await load.wait_answered(40)
                        await servers.restart(number)
                    await load.wait_answered(40)
        got = servers.got()
    report(f"{load.outcomes}")
    assert [*load.outcomes.values()] == [{"200": outcomes.total()} for outcomes in load.outcomes.values()]
    assert set(load.outcomes) == set(METHODS)
    assert {line: times for line, times in got.items() if times > 1 and line.split()[0] in {"POST", "PATCH"}} == {}
    assert len(servers.started) == 3
    assert set(servers.started.values()) == {ROUNDS + 1}
