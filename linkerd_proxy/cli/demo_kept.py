"""What ``demo --keep DIR`` leaves behind: certificates, and the script that is the demonstration."""

from __future__ import annotations

from pathlib import Path

from linkerd_proxy.cli.demo_mesh import Mesh
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.tls.store import create_store, write_identity

__all__ = ["SCRIPT", "keep_mesh"]

SCRIPT = '''\
"""The demonstration's mesh in your hands: web asks three replicas of api. Usage: demo.py [LISTEN]"""

import random
import sys
from pathlib import Path

import trio

from linkerd_proxy import Balance, Endpoint, Files, Http, Request, Rescue, Response, Retry, Stack, Static
from linkerd_proxy import Connection, asking, handler, inbound, open_listeners, serve

WEB, API = (Files(Path(__file__).parent / name) for name in ("web", "api"))


def app(name: str, work: float, failing: float, dice: random.Random) -> Stack[Connection]:
    async def hello(request: Request) -> Response:
        await trio.sleep(work)
        if dice.random() < failing:
            return Response(503)  # which nobody sees: Retry asks another replica
        return Response(200, (), f"Hello {request.headers.get('l5d-client-id')}, this is {name}\\n".encode())

    return Http() | handler(hello)


async def main(listen: str = "127.0.0.1:8080") -> None:
    async with trio.open_nursery() as nursery:
        replicas = []
        for name, work, failing in (("api-1", 0.003, 0), ("api-2", 0.05, 0), ("api-3", 0.003, 0.01)):
            own, side = await open_listeners("127.0.0.1:0", "127.0.0.1:0")
            nursery.start_soon(serve, app(name, work, failing, random.Random()), [own])
            nursery.start_soon(serve, inbound(API, require_identity=True), [side])
            replicas.append(Endpoint(own.address, identity="api.mesh.local", tagged_port=side.address.port))
        web = Http() | Rescue() | Retry() | Balance(Static(*replicas), lambda one: asking(one, WEB))
        listeners = await open_listeners(listen)
        print(f"{web}\\nlistening on {listeners[0].address}", flush=True)
        await serve(web, listeners)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
'''


def keep_mesh(directory: Path, mesh: Mesh) -> Path:
    """Write the authority, both identities and the script to a directory, and return the script's path.

    Raises:
        InvalidConfiguration: if something is there already, or it can't be written.
    """
    script = directory / "demo.py"
    create_store(directory / "ca", mesh.authority)
    write_identity(directory / "web", mesh.web)
    write_identity(directory / "api", mesh.api)
    try:
        script.write_text(SCRIPT)
    except OSError as error:
        raise InvalidConfiguration(f"cannot write {script}: {error.strerror}; give another directory") from error
    return script
