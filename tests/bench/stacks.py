"""Stacks that the command has no option for: ``python -m tests.bench.stacks VARIANT PORT BACKEND``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence

import trio

from linkerd_proxy.address import Address
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import serve
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.io.listen import SocketListener, open_listeners
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.forward import Forward


def tcp_bare(to: Address) -> Stack[Connection]:
    """Nothing but the relay."""
    return Forward() | Connect(to)


def tcp_detect(to: Address) -> Stack[Connection]:
    """Detection, whatever it finds is copied: how opaque traffic costs on a port that detects."""
    from linkerd_proxy.detect import Detect

    tcp = tcp_bare(to)
    return Detect(http=tcp, otherwise=tcp)


def http_bare(to: Address) -> Stack[Connection]:
    """HTTP without detection, rescue or metrics of its own."""
    from linkerd_proxy.http.client import Client
    from linkerd_proxy.http.server import Http

    return Http() | Client() | Connect(to)


VARIANTS: dict[str, Callable[[Address], Stack[Connection]]] = {
    "tcp_bare": tcp_bare,
    "tcp_detect": tcp_detect,
    "http_bare": http_bare,
}


async def main(variant: str, port: int, backend: int) -> None:
    """Serve one stack until SIGTERM."""
    drain = Drain(grace=1)
    stack = VARIANTS[variant](Address("127.0.0.1", backend))
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            listeners = await open_listeners(Address("127.0.0.1", port))
            nursery.start_soon(_serve, stack, listeners, drain, nursery)
            async for _ in signals:
                drain.start()
                break


async def _serve(
    stack: Stack[Connection], listeners: Sequence[SocketListener], drain: Drain, nursery: trio.Nursery
) -> None:
    await serve(stack, listeners, drain=drain)
    nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
