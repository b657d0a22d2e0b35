"""Forward raw TCP. Usage: tcp_forward.py [LISTEN [UPSTREAM]]"""

import sys

import trio

from linkerd_proxy import Connect, Connection, Forward, Stack, open_listeners, serve


def proxy(upstream: str = "127.0.0.1:9000") -> Stack[Connection]:
    return Forward() | Connect(upstream)


async def main(listen: str = "127.0.0.1:8080", *upstream: str) -> None:
    stack = proxy(*upstream)
    listeners = await open_listeners(listen)
    print(stack)
    print("listening on", listeners[0].address, flush=True)
    await serve(stack, listeners)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
