"""A reverse proxy that logs, traces and counts. Usage: observe.py [LISTEN [WEB [COLLECTOR]]]"""

import sys

import trio

from linkerd_proxy import (
    AccessLog,
    Client,
    Connect,
    Connection,
    Http,
    Metrics,
    Otlp,
    Rescue,
    Stack,
    Trace,
    open_listeners,
    serve,
)


def proxy(web: str = "127.0.0.1:9000", collector: str = "127.0.0.1:4318") -> Stack[Connection]:
    spans = Otlp(Client() | Connect(collector), authority=collector, service="shop", interval=1)
    site = Client() | Connect(web)
    return Http() | AccessLog("json") | Trace(spans, start=0.01) | Metrics() | Rescue() | site


async def main(listen: str = "127.0.0.1:8080", *upstreams: str) -> None:
    stack = proxy(*upstreams)
    listeners = await open_listeners(listen)
    print(stack)
    print("listening on", listeners[0].address, flush=True)
    await serve(stack, listeners)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
