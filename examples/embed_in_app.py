"""Run a proxy inside your own application's nursery, and drain it. Usage: embed_in_app.py [LISTEN [UPSTREAM]]"""

import sys

import trio

from linkerd_proxy import Client, Connect, Drain, Http, Rescue, open_listeners, serve


async def application(drain: Drain) -> None:
    for line in ["working", "still working"]:
        print(line, flush=True)
        await trio.lowlevel.checkpoint()
    await drain.wait()


async def main(listen: str = "127.0.0.1:8080", upstream: str = "127.0.0.1:9000", *_: str) -> None:
    stack = Http() | Rescue() | Client() | Connect(upstream)
    drain = Drain(grace=5)
    async with trio.open_nursery() as nursery:
        listeners = await open_listeners(listen)
        await nursery.start(lambda task_status: serve(stack, listeners, drain=drain, task_status=task_status))
        print("listening on", listeners[0].address, flush=True)
        nursery.start_soon(application, drain)
        async for line in trio.lowlevel.FdStream(0):  # end of input: finish what runs, then leave
            print("ignored:", line)
        drain.start()
    print("drained")


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
