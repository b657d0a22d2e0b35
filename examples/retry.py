"""A reverse proxy that asks again, within a budget and a deadline. Usage: retry.py [LISTEN [WEB]]"""

import sys

import trio

from linkerd_proxy import (
    Budget,
    Client,
    Connect,
    Connection,
    Hedge,
    Http,
    Rescue,
    Retry,
    Stack,
    Timeouts,
    open_listeners,
    serve,
)


def proxy(web: str = "127.0.0.1:9000") -> Stack[Connection]:
    patient = Timeouts(request=10, idle=5)
    retry = Retry(Budget(retry_ratio=0.2, min_retries_per_second=10), limit=2, http="gateway-error", timeout=2)
    hedge = Hedge(Budget(retry_ratio=0.05, min_retries_per_second=1), delay=0.5, percentile=0.99)
    return Http() | Rescue() | patient | retry | hedge | Client() | Connect(web)


async def main(listen: str = "127.0.0.1:8080", *upstream: str) -> None:
    stack = proxy(*upstream)
    listeners = await open_listeners(listen)
    print(stack)
    print("listening on", listeners[0].address, flush=True)
    await serve(stack, listeners)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
