"""A reverse proxy for HTTP, and for whatever else comes. Usage: reverse_http.py [LISTEN [WEB [OTHER]]]"""

import sys

import trio

from linkerd_proxy import (
    Client,
    Connect,
    Connection,
    Detect,
    Forward,
    Http,
    Rescue,
    Route,
    Stack,
    Timeout,
    open_listeners,
    serve,
)


def proxy(web: str = "127.0.0.1:9000", other: str = "127.0.0.1:9001") -> Stack[Connection]:
    site = Client() | Connect(web)
    http = Http() | Rescue() | Route({"/api": Timeout(5) | site, "/": site})
    return Detect(http=http, otherwise=Forward() | Connect(other))


async def main(listen: str = "127.0.0.1:8080", *upstreams: str) -> None:
    stack = proxy(*upstreams)
    listeners = await open_listeners(listen)
    print(stack)
    print("listening on", listeners[0].address, flush=True)
    await serve(stack, listeners)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
