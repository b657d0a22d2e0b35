import json
import os
import re
import signal

import pytest
import trio

from linkerd_proxy.cli.asking import ask_admin
from linkerd_proxy.io.dial import dial

ARGUMENTS = ("run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "2")


async def test_workers_share_one_port_and_one_admin_view(command, fetch, series, origin):
    async with command(*ARGUMENTS, "--to", origin.address) as proxy:
        address, admin = await proxy.address(), await proxy.address("admin")
        for _ in range(20):
            assert await fetch(address) == (200, b"hello")
        assert await fetch(admin, "/ready") == (200, b"ready\n")
        _, body = await fetch(admin, "/metrics")
        text = body.decode()
        assert series(text, "request_total") == {'protocol="http/1"': 20}
        assert series(text, "response_latency_ms_count") == {'protocol="http/1",status_code="200"': 20}
        (buckets,) = {
            labels: count for labels, count in series(text, "response_latency_ms_bucket").items() if "+Inf" in labels
        }.values()
        assert buckets == 20
        proxy.signal()
        assert await proxy.ended() == 0


async def test_the_admin_endpoint_shows_what_goes_on_in_all_workers(command, fetch, origin):
    async with command(*ARGUMENTS, "--to", origin.address) as proxy:
        address, admin = await proxy.address(), await proxy.address("admin")
        lines = []

        async def look():
            await ask_admin(admin, "/tap?path=/seen&limit=6", "application/x-ndjson", lines.append)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            while True:  # until the tap has seen enough, and ends
                assert await fetch(address, "/seen") == (200, b"hello")
        events = [json.loads(line) for line in lines if line]
        assert [event["event"] for event in events].count("request") == 6
        assert [event["event"] for event in events].count("end") == 6
        tasks = []
        await ask_admin(admin, "/tasks", "text/plain", tasks.append)
        workers = [int(line.split()[1].rstrip(",")) for line in tasks if line.startswith("worker ")]
        assert len(set(workers)) == 2
        assert {event["worker"] for event in events if event["event"] == "request"} <= set(map(str, workers))
        frames = []

        async def watch():
            await ask_admin(admin, "/events", "text/event-stream", frames.append)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            while not frames:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert json.loads(frames[0].removeprefix("data: "))["rows"]
        proxy.signal()
        assert await proxy.ended() == 0


async def test_sigterm_drains_every_worker(command, fetch, origin):
    async with command(*ARGUMENTS, "--to", origin.address) as proxy:
        address, admin = await proxy.address(), await proxy.address("admin")
        async with await dial(address) as stream:
            await stream.send_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
            await origin.begun.wait()
            proxy.signal()
            while (await fetch(admin, "/ready"))[0] != 503:
                pass
            origin.go_on.set()
            data = b""
            while chunk := await stream.receive_some():
                data += chunk
        assert data.endswith(b"first+rest")
        assert await proxy.ended() == 0


async def test_a_second_signal_ends_every_worker_at_once(command, fetch, origin):
    async with command(*ARGUMENTS, "--to", origin.address) as proxy:
        address, admin = await proxy.address(), await proxy.address("admin")
        async with await dial(address) as stream:
            await stream.send_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
            await origin.begun.wait()
            proxy.signal(signal.SIGINT)
            while (await fetch(admin, "/ready"))[0] != 503:
                pass
            proxy.signal(signal.SIGINT)
            assert await proxy.ended() == 130


def children(pid):
    """Return the process ids of a process's children."""
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children") as file:
            found += [int(child) for child in file.read().split()]
    return found


@pytest.mark.skipif(not os.path.exists(f"/proc/self/task/{os.getpid()}/children"), reason="this system does not tell")
async def test_workers_end_when_their_parent_is_killed(command, origin):
    async with command(*ARGUMENTS, "--to", origin.address) as proxy:
        await proxy.address()
        workers = children(proxy.process.pid)
        assert len(workers) == 2
        proxy.signal(signal.SIGKILL)
        await proxy.process.wait()
        while not all(map(is_over, workers)):
            await trio.lowlevel.checkpoint()


def is_over(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def test_the_level_of_the_log_is_that_of_every_worker(command, fetch):
    arguments = (*ARGUMENTS, "--to", "127.0.0.1:1", "--log", "off")
    async with command(*arguments) as proxy:
        address, admin = await proxy.address(), await proxy.address("admin")
        assert (await fetch(address))[0] == 502
        put = "content-length: 37\r\n\r\nerror,linkerd_proxy.failures=warn    "
        assert (await fetch(admin, "/proxy-log-level", method="PUT", host="localhost", headers=put))[0] == 204
        assert (await fetch(admin, "/metrics"))[0] == 200  # whoever has told this has heard of the level before
        for _ in range(3):
            assert (await fetch(address))[0] == 502
        proxy.signal()
        assert await proxy.ended() == 0
        assert len(re.findall(r"WARNING worker \d+: UF ", proxy.errors)) == 3
