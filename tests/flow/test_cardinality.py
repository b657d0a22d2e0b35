"""What peers choose must not fill the memory, and who looks must not hold up the traffic."""

import json
import subprocess
import sys

import trio

from linkerd_proxy import Http, Response, current_registry, open_listeners, reverse_proxy
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import serve
from linkerd_proxy.http.handler import handler
from linkerd_proxy.io.dial import dial
from linkerd_proxy.mesh.admin import admin
from linkerd_proxy.metrics.registry import MAX_SERIES
from linkerd_proxy.metrics.taps import current_taps
from tests.patience import PATIENCE

HOSTS = 100_000
REQUESTS = 1000


def test_a_hundred_thousand_hosts_are_few_series_and_little_memory():
    done = subprocess.run(
        [sys.executable, "-m", "tests.flow.many_hosts", str(HOSTS)],
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["requests"] >= HOSTS
    assert found["series"] <= 100 < MAX_SERIES
    assert found["grown"] <= 10 << 20


@handler
async def answer(request):
    return Response(200, body=b"hello")


async def test_a_tap_that_nobody_reads_drops_events_and_never_a_request():
    """Over sockets, with a proxy before the origin: what the reader did not take is told him when he does."""
    (origin,) = await open_listeners("127.0.0.1:0")
    (entrance,) = await open_listeners("127.0.0.1:0")
    (looking,) = await open_listeners("127.0.0.1:0")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, Http() | answer, [origin])
            await nursery.start(serve, reverse_proxy([origin.address]), [entrance])
            await nursery.start(serve, admin(Drain()), [looking])
            async with await dial(looking.address) as reader, await dial(entrance.address) as client:
                query = f"/tap?headers=true&path=/busy&limit={REQUESTS}"
                await reader.send_all(f"GET {query} HTTP/1.0\r\nhost: localhost\r\n\r\n".encode())
                assert (await reader.receive_some()).startswith(b"HTTP/1.")
                filling = "x" * 12_000  # events so large that no socket's buffer holds them all
                for number in range(REQUESTS):
                    head = f"GET /busy/{number} HTTP/1.1\r\nhost: web\r\nx-filling: {filling}\r\n\r\n"
                    await client.send_all(head.encode())
                    assert b"HTTP/1.1 200" in await client.receive_some()
                dropped = current_registry().counter("tap_events_dropped_total", "").value
                assert dropped > 0
                told = 0
                events = 0
                rest = b""
                while told < dropped or current_taps().active:
                    data = await reader.receive_some()
                    if not data:
                        break
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        if line.startswith(b'{"event": "dropped"'):
                            told += json.loads(line)["count"]
                        elif line.startswith(b'{"event"'):
                            events += 1
            nursery.cancel_scope.cancel()
    assert told == dropped
    assert events + dropped >= 3 * REQUESTS - 3
