"""Serve one stack by two processes on one port; SIGTERM drains. Usage: workers.py [LISTEN [UPSTREAM]]"""

import signal
import sys

import trio

from linkerd_proxy import Client, Connect, Connection, Drain, Http, Rescue, Stack
from linkerd_proxy.mesh.workers import run_workers


def proxy(upstream: str) -> Stack[Connection]:  # called in each worker
    return Http() | Rescue() | Client() | Connect(upstream)


async def main(listen: str = "127.0.0.1:8080", upstream: str = "127.0.0.1:9000", *_: str) -> None:
    drain = Drain(grace=30)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            workers = await nursery.start(
                lambda *, task_status: run_workers(
                    f"{__file__}:proxy",
                    [listen],
                    workers=2,
                    arguments={"upstream": upstream},
                    drain=drain,
                    task_status=task_status,
                )
            )
            print("workers", *workers.pids)
            print("listening on", workers.addresses[0], flush=True)
            async for _signal in signals:
                drain.start()
                break
    print("drained")


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
