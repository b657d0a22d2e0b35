"""Two proxies with identities, and mutual TLS between them. Usage: mesh.py [LISTEN [APPLICATION]]"""

import sys

import trio

from linkerd_proxy import (
    Address,
    Authority,
    Endpoint,
    Given,
    Http,
    Metrics,
    Rescue,
    asking,
    inbound,
    open_listeners,
    parse_address,
    serve,
)

authority = Authority.create("mesh.local")  # in memory, as long as this runs; Files("web") reads those on disk
web = Given(authority.issue("web.mesh.local"))
api = Given(authority.issue("api.mesh.local"))


async def main(listen: str = "127.0.0.1:8080", application: str = "127.0.0.1:9000", *_: str) -> None:
    async with trio.open_nursery() as nursery:
        (theirs,) = await open_listeners("127.0.0.1:0")
        assert isinstance(theirs.address, Address)  # and no Unix socket
        nursery.start_soon(serve, inbound(api, require_identity=True), [theirs])
        endpoint = Endpoint(parse_address(application), identity="api.mesh.local", tagged_port=theirs.address.port)
        proxy = Http() | Metrics() | Rescue() | asking(endpoint, web)
        listeners = await open_listeners(listen)
        print(f"{proxy}\nlistening on {listeners[0].address}", flush=True)
        await serve(proxy, listeners)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
