"""Spread requests over the endpoints of a file, or over addresses. Usage: balance.py [LISTEN [ENDPOINTS...]]"""

import sys

import trio

from linkerd_proxy import (
    Balance,
    Client,
    Connect,
    Connection,
    EndpointsFile,
    Http,
    Rescue,
    Stack,
    Static,
    open_listeners,
    serve,
)


def proxy(*endpoints: str) -> Stack[Connection]:
    is_file = endpoints[0].endswith((".json", ".yaml"))
    resolve = EndpointsFile(endpoints[0]) if is_file else Static(*endpoints)
    # Each endpoint has a stack of its own, so that its connections are kept and used again.
    return Http() | Rescue() | Balance(resolve, lambda endpoint: Client() | Connect(endpoint.address))


async def main(listen: str = "127.0.0.1:8080", *endpoints: str) -> None:
    stack = proxy(*(endpoints or ["127.0.0.1:9000", "127.0.0.1:9001"]))
    listeners = await open_listeners(listen)
    print(stack)
    print("listening on", listeners[0].address, flush=True)
    await serve(stack, listeners)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
