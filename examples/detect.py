"""Tell HTTP from anything else on one port. Usage: detect.py [LISTEN [WEB [OTHER]]]"""

import sys

import trio

from linkerd_proxy import Connect, Connection, Detect, Forward, Stack, open_listeners, serve


def proxy(web: str = "127.0.0.1:9000", other: str = "127.0.0.1:9001") -> Stack[Connection]:
    return Detect(
        http=Forward() | Connect(web),
        otherwise=Forward() | Connect(other),
    )


async def main(listen: str = "127.0.0.1:8080", *upstreams: str) -> None:
    stack = proxy(*upstreams)
    listeners = await open_listeners(listen)
    print(stack)
    print("listening on", listeners[0].address, flush=True)
    await serve(stack, listeners)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
