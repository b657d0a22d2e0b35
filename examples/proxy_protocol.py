"""Take PROXY headers from a load balancer, and send them on. Usage: proxy_protocol.py [LISTEN [UPSTREAM]]"""

import sys

import trio

from linkerd_proxy import Connect, Connection, Forward, ProxyProtocol, SendProxyProtocol, Stack, open_listeners, serve


def proxy(upstream: str = "127.0.0.1:9001") -> Stack[Connection]:
    return ProxyProtocol(trusted=("127.0.0.0/8",)) | Forward() | SendProxyProtocol(version=1) | Connect(upstream)


async def main(listen: str = "127.0.0.1:8080", *upstream: str) -> None:
    listeners = await open_listeners(listen)
    print("listening on", listeners[0].address, flush=True)
    await serve(proxy(*upstream), listeners)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
