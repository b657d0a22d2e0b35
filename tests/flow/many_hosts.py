"""A program for test_cardinality: a proxy and its origin, asked for so many hosts; prints what that left behind."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from resource import getpagesize

import trio

from linkerd_proxy import (
    AccessLog,
    Http,
    Metrics,
    Request,
    Rescue,
    Response,
    Route,
    Tap,
    current_registry,
    open_listeners,
    reverse_proxy,
)
from linkerd_proxy.core.serve import serve
from linkerd_proxy.http.handler import handler
from linkerd_proxy.io.dial import dial

WARM, BATCH = 2_000, 200


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()


@handler
async def answer(request: Request) -> Response:
    return Response(200, body=b"x")


async def ask(stream: trio.abc.HalfCloseableStream, first: int, count: int) -> None:
    """Ask for hosts, many a write, and wait for all of the answers."""
    for start in range(first, first + count, BATCH):
        hosts = range(start, start + BATCH)
        heads = (f"GET /{n} HTTP/1.1\r\nhost: h{n}.test\r\nx-request-id: {n}\r\n\r\n" for n in hosts)
        await stream.send_all("".join(heads).encode())
        heard = b""
        while heard.count(b"HTTP/1.1 200") < BATCH:  # of the whole: a status line may come in two pieces
            data = await stream.receive_some()
            assert data
            heard += data


async def main(total: int) -> None:
    """Ask a tenth through a whole reverse proxy, and the rest through all layers that could keep something by host."""
    (origin,) = await open_listeners("127.0.0.1:0")
    (entrance,) = await open_listeners("127.0.0.1:0")
    (short,) = await open_listeners("127.0.0.1:0")
    layers = Http() | AccessLog("json", to="/dev/null") | Tap() | Metrics() | Rescue() | Route({"/": answer})
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, Http() | answer, [origin])
        await nursery.start(serve, reverse_proxy([origin.address]), [entrance])
        await nursery.start(serve, layers, [short])
        async with await dial(entrance.address) as whole, await dial(short.address) as part:
            await ask(whole, 10_000_000, WARM)
            await ask(part, 20_000_000, WARM)
            before = resident()
            await ask(whole, 0, total // 10)
            await ask(part, total // 10, total - total // 10)
            after = resident()
        registry = current_registry()
        registry.collect()
        largest = max(len(family) for family in registry)
        series = sum(len(family) for family in registry)
        requests = sum(one.value for family in registry if family.name == "request_total" for _, one in family.items())
        sys.stdout.write(
            json.dumps({"grown": after - before, "largest": largest, "series": series, "requests": requests}) + "\n"
        )
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
