import os
import signal

import pytest
import trio
import trio.lowlevel

from linkerd_proxy.core.drain import Drain
from linkerd_proxy.errors import ConnectFailed, InvalidConfiguration
from linkerd_proxy.io.dial import dial
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.reserve import reserve
from linkerd_proxy.mesh.workers import run_workers
from linkerd_proxy.metrics.registry import current_registry
from tests.patience import PATIENCE

APPLICATION = """
import os
from linkerd_proxy.core.message import Response
from linkerd_proxy.http.handler import handler
from linkerd_proxy.http.server import Http
from linkerd_proxy.metrics.layer import Metrics

async def pid(request):
    return Response(200, (), str(os.getpid()).encode())

proxy = Http() | Metrics() | handler(pid)

def make(times):
    assert times == 2
    return proxy

def broken():
    raise RuntimeError("no luck")

def leave():
    os._exit(7)
"""


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "application.py"
    path.write_text(APPLICATION)
    return str(path)


async def ask(address):
    """Return the process id of the worker that answers on a new connection."""
    async with await dial(address) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        data = b""
        while chunk := await stream.receive_some():
            data += chunk
    return int(data.rpartition(b"\r\n\r\n")[2])


@pytest.fixture
async def running(nursery, target):
    drain = Drain(5)

    async def start(name="proxy", workers=2, **options):
        with trio.fail_after(PATIENCE):
            return await nursery.start(
                lambda *, task_status: run_workers(
                    f"{target}:{name}",
                    ["127.0.0.1:0"],
                    workers=workers,
                    drain=drain,
                    task_status=task_status,
                    **options,
                )
            )

    start.drain = drain
    return start


async def count(workers, name):
    """Return the sum of a counter over all workers."""
    for family in await workers.metrics():
        if family.name == name:
            return sum(series.value for series in family.series.values())
    return 0


async def test_several_processes_share_a_port_that_the_system_chose(running):
    workers = await running(workers=2)
    (address,) = workers.addresses
    assert address.port > 0
    assert workers.ready
    answering = set()
    with trio.fail_after(PATIENCE):
        while answering != set(workers.pids):
            answering.add(await ask(address))
    assert os.getpid() not in answering
    assert len(answering) == 2


async def test_metrics_of_all_are_one_and_exact(running):
    workers = await running(workers=3)
    for _ in range(30):
        await ask(workers.addresses[0])
    registry = await workers.metrics()
    assert registry.counter("request_total", "", protocol="http/1").value == 30
    latency = registry.histogram("response_latency_ms", "", protocol="http/1", status_code="200")
    assert latency.count == sum(latency.buckets.values()) == 30
    assert registry.counter("process_cpu_seconds_total", "").value > 0


async def test_a_worker_that_is_killed_is_replaced_and_its_counts_stay(running):
    workers = await running(workers=2)
    (address,) = workers.addresses
    for _ in range(10):
        await ask(address)
    assert await count(workers, "request_total") == 10
    victim, other = workers.pids
    os.kill(victim, signal.SIGKILL)
    with trio.fail_after(PATIENCE):
        while workers.ready:
            await trio.lowlevel.checkpoint()
        assert await ask(address) == other  # the one that is left has the port to itself
        while not workers.ready:
            await trio.lowlevel.checkpoint()
    assert victim not in workers.pids
    assert len(workers.pids) == 2
    assert await count(workers, "request_total") == 11
    assert current_registry().counter("proxy_worker_restarts_total", "").value == 1


async def test_a_drain_ends_all_and_loses_no_count(running):
    workers = await running(workers=2)
    for _ in range(7):
        await ask(workers.addresses[0])
    pids = workers.pids
    running.drain.start()
    assert not workers.ready
    with trio.fail_after(PATIENCE):
        while workers.pids:
            await trio.lowlevel.checkpoint()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert await count(workers, "request_total") == 7


async def test_cancellation_kills_at_once(target):
    pids = []
    async with trio.open_nursery() as nursery:
        workers = await nursery.start(
            lambda *, task_status: run_workers(f"{target}:proxy", ["127.0.0.1:0"], workers=2, task_status=task_status)
        )
        pids += workers.pids
        nursery.cancel_scope.cancel()
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_factory_gets_its_arguments(running):
    workers = await running("make", workers=1, arguments={"times": 2})
    assert await ask(workers.addresses[0]) in workers.pids


@pytest.mark.parametrize(
    ("name", "told"),
    [("broken", "RuntimeError: no luck"), ("nothing", "has no nothing"), ("leave", "ended with status 7")],
)
async def test_what_a_worker_can_not_do_is_told_by_the_parent(target, name, told):
    with trio.fail_after(PATIENCE), pytest.raises(InvalidConfiguration, match=told):
        await run_workers(f"{target}:{name}", ["127.0.0.1:0"], workers=2)


@pytest.mark.parametrize(
    ("addresses", "workers", "told"),
    [(["unix:/tmp/x"], 2, "workers can't share unix:/tmp/x"), (["127.0.0.1:0"], 0, "give at least 1")],
)
async def test_what_can_not_be_shared_is_refused(target, addresses, workers, told):
    with pytest.raises(InvalidConfiguration, match=told):
        await run_workers(f"{target}:proxy", addresses, workers=workers)


class TestReserve:
    async def test_a_reserved_port_takes_no_connections_and_can_be_shared(self):
        (reserved,) = await reserve("127.0.0.1:0")
        with reserved:
            with pytest.raises(ConnectFailed, match="refused"):
                await dial(reserved.address)
            (listener,) = await open_listeners(reserved.address, reuse_port=True)
            for _ in range(20):
                async with await dial(reserved.address):
                    connection = await listener.accept()
                    await connection.stream.aclose()
            await listener.aclose()

    @pytest.mark.parametrize("address", [":0", "[::1]:0", "localhost:0"])
    async def test_every_form_of_address(self, address):
        found = await reserve(address)
        assert found
        for one in found:
            with one:
                assert one.address.port > 0
                assert str(one.address) in repr(one)

    async def test_a_port_in_use_is_one_line(self):
        (listener,) = await open_listeners("127.0.0.1:0")
        with pytest.raises(InvalidConfiguration, match="Address already in use; stop what listens there"):
            await reserve(listener.address)
        await listener.aclose()
