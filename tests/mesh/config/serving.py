"""Proxies that a document describes, over real sockets."""

import json
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from linkerd_proxy.core.message import Request
from linkerd_proxy.core.serve import serve
from linkerd_proxy.core.stack import opened
from linkerd_proxy.document.load import loads
from linkerd_proxy.http.client import Client
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.config.build import build
from linkerd_proxy.mesh.config.document import ProxyDocument
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.testing import call
from linkerd_proxy.tls.store import key_pem, to_pem


def document(told) -> ProxyDocument:
    """Return a document, told as text or as data."""
    return loads(told if isinstance(told, str) else json.dumps(told), ProxyDocument, "proxy.yaml")


@asynccontextmanager
async def served(text, base=Path()):
    """Serve each listener of a document, whose ports are 0, and yield their addresses."""
    read = document(text)
    bound = {}
    async with trio.open_nursery() as nursery:
        listeners = []
        for name, entry in read.listeners.items():
            opened_here = await open_listeners(entry.address)
            bound[name] = tuple(one.address for one in opened_here)
            listeners += opened_here
        await nursery.start(
            lambda *, task_status: serve(build(read, base=base, bound=bound), listeners, task_status=task_status)
        )
        await trio.testing.wait_all_tasks_blocked()  # until then a balancer may know some of its endpoints only
        yield {name: addresses[0] for name, addresses in bound.items()}
        nursery.cancel_scope.cancel()


async def get(address, path="/x", *, tls=None, headers=(), method="GET"):
    stack = Client() | Connect(address) if tls is None else Client() | tls | Connect(address)
    request = Request(method, path, headers, authority="x")
    async with opened(stack) as client, call(client, request) as response:
        return response.status, await response.body.read()


def write_identity(directory, authority, name) -> None:
    made = authority.issue(name)
    directory.mkdir()
    (directory / "cert.pem").write_bytes(to_pem(made.chain))
    (directory / "key.pem").write_bytes(key_pem(made.key))
    (directory / "ca.pem").write_bytes(authority.roots)
