"""Lets in who comes from named networks, 100 times a second. Usage: authorize.py [LISTEN [WEB [NETWORK...]]]"""

import sys

import trio

from linkerd_proxy import (
    Authorization,
    Authorize,
    Client,
    Connect,
    Connection,
    Http,
    RateLimit,
    Rescue,
    ServerPolicy,
    Stack,
    open_listeners,
    serve,
)


def proxy(web: str = "127.0.0.1:9000", *networks: str) -> Stack[Connection]:
    # Behind Terminate(identity) clients prove who they are: authentication=TlsAuthenticated(["web.prod.example"])
    allowed = Authorization(networks or ["127.0.0.0/8", "10.0.0.0/8"], name="inside")
    policy = ServerPolicy([allowed], name="web", loopback=False)
    return Http() | Rescue() | Authorize(policy) | RateLimit(total=100) | Client() | Connect(web)


async def main(listen: str = "127.0.0.1:8080", *arguments: str) -> None:
    listeners = await open_listeners(listen)
    print("listening on", listeners[0].address, flush=True)
    await serve(proxy(*arguments), listeners)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
