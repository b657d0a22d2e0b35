"""Both ends of a mesh link. Usage: mutual_tls.py [LISTEN [TO [DIRECTORY_OF_PEM_FILES [PEER_IDENTITY]]]]"""

import sys

import trio

from linkerd_proxy import (
    Connect,
    Connection,
    Files,
    Forward,
    Originate,
    Stack,
    Terminate,
    open_listeners,
    serve,
)


def proxy(to: str = "127.0.0.1:9000", directory: str = ".", peer: str = "") -> Stack[Connection]:
    identity = Files(directory)
    if peer:
        return Forward() | Originate(identity, peer=peer) | Connect(to)
    return Terminate(identity, require_identity=True) | Forward() | Connect(to)


async def main(listen: str = "127.0.0.1:8080", *rest: str) -> None:
    stack = proxy(*rest)
    listeners = await open_listeners(listen)
    print(stack)
    print("listening on", listeners[0].address, flush=True)
    await serve(stack, listeners)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
