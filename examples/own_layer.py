"""Write a layer: every answer tells how long it took. Usage: linkerd-proxy run own_layer.py:proxy"""

import os
from dataclasses import dataclass

import trio

from linkerd_proxy import Client, Connect, Exchange, Http, Layer, Rescue, Response, Service


@dataclass(frozen=True, slots=True, repr=False)
class Took(Layer[Exchange, Exchange]):
    """Adds a response header with the milliseconds until the answer began."""

    header: str = "x-took-ms"

    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        start = trio.current_time()

        async def respond(response: Response) -> None:
            response.headers.set(self.header, f"{(trio.current_time() - start) * 1000:.1f}")
            await work.respond(response)

        await inner(work.answering(respond))


proxy = Http() | Took() | Rescue() | Client() | Connect(os.environ.get("UPSTREAM", "127.0.0.1:9000"))
