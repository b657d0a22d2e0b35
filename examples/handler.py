"""Answer requests with a plain function. Usage: handler.py [LISTEN]"""

import sys

import trio

from linkerd_proxy import Connection, Http, Request, Rescue, Response, Stack, handler, open_listeners, serve


async def hello(request: Request) -> Response:
    if request.method == "POST":
        return Response(200, body=(await request.body.read(limit=65536)).upper())
    return Response(200, [("content-type", "text/plain")], f"hello from {request.path}\n".encode())


def proxy() -> Stack[Connection]:
    return Http() | Rescue() | handler(hello)


async def main(listen: str = "127.0.0.1:9000", *_: str) -> None:
    listeners = await open_listeners(listen)
    print("listening on", listeners[0].address, flush=True)
    await serve(proxy(), listeners)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
