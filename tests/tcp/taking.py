"""A layer that takes something off the front of a connection, and what comes out of it."""

import trio
from trio.testing import memory_stream_pair


async def take(layer, data, make, *, chunk=10_000, end=True):
    """Send bytes through the layer on the connection that ``make`` makes of a stream.

    Returns the connection that came out, and what was left to read.
    """
    near, far = memory_stream_pair()
    seen = []

    async def inner(connection):
        rest = b""
        while received := await connection.stream.receive_some(100):
            rest += received
        seen.append((connection, rest))

    async def send():
        for at in range(0, len(data), chunk):
            await near.send_all(data[at : at + chunk])
            await trio.lowlevel.checkpoint()
        if end:
            await near.send_eof()

    error = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        try:
            await layer.serve(make(far), inner)
        except Exception as caught:
            error = caught
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
    return seen[0]
