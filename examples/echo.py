"""Send back what comes: something to put a proxy before. Usage: echo.py [LISTEN]"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from linkerd_proxy import Connection, Service, Stack, open_listeners, serve


@dataclass(frozen=True, slots=True)
class Echo(Stack[Connection]):
    """Sends every byte back, until the client has ended its side."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        yield self.echo

    async def echo(self, connection: Connection) -> None:
        while data := await connection.stream.receive_some():
            await connection.stream.send_all(data)


async def main(listen: str = "127.0.0.1:9001", *_: str) -> None:
    listeners = await open_listeners(listen)
    print("listening on", listeners[0].address, flush=True)
    await serve(Echo(), listeners)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
