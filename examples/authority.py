"""A mesh of two proxies with an authority in memory. Usage: authority.py [LISTEN] [TO]"""

import sys

import trio

from linkerd_proxy import Authority, Connect, Forward, Issued, Originate, Terminate, open_listeners, serve


async def main(listen: str = "127.0.0.1:9000", to: str = "127.0.0.1:9001", *_: str) -> None:
    authority = Authority.create("mesh.local")
    outside, inside = await open_listeners(listen, "127.0.0.1:0")

    app = Issued(authority, "app.mesh.local")
    inbound = Terminate(app, require_identity=True) | Forward() | Connect(to)

    web = Issued(authority, "web.mesh.local")
    outbound = Forward() | Originate(web, peer="app.mesh.local") | Connect(inside.address)

    print(outbound, inbound, f"listening on {outside.address}", sep="\n", flush=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, inbound, [inside])
        nursery.start_soon(serve, outbound, [outside])


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
