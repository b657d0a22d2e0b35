"""In which form an application gets the target that its client wrote: transparent proxies change nothing about it."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from linkerd_proxy.address import Address
from linkerd_proxy.core.stack import opened
from linkerd_proxy.mesh.inbound import inbound
from linkerd_proxy.mesh.outbound import outbound
from linkerd_proxy.mesh.peer import MeshPeer
from linkerd_proxy.mesh.reverse import reverse_proxy
from linkerd_proxy.testing import memory_connection, serving, tcp_origin
from linkerd_proxy.tls.authority import Authority
from linkerd_proxy.tls.identity import Given
from tests.patience import PATIENCE
from tests.ports import held_port

WEB, API = "web.mesh.local", "api.mesh.local"
WHOLE = b"GET http://shop.example:81/x?y HTTP/1.1\r\nhost: other.example\r\nconnection: close\r\n\r\n"
ORIGIN = b"GET /x?y HTTP/1.1\r\nhost: shop.example:81\r\nconnection: close\r\n\r\n"
SAID = {"whole": WHOLE.partition(b"\r\n")[0], "origin": ORIGIN.partition(b"\r\n")[0]}


@pytest.fixture(scope="module")
def identities():
    authority = Authority.create("mesh.local")
    return {name: Given(authority.issue(name)) for name in (WEB, API)}


async def repeat(connection):
    stream, head = connection.stream, b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(head), head))


async def ask(stack, request, going_to):
    """Return the request's head as the application got it."""
    client, connection = memory_connection(original_dst=going_to)
    with trio.fail_after(PATIENCE):
        async with opened(stack) as service, trio.open_nursery() as nursery:
            nursery.start_soon(service, connection)
            await client.send_all(request)
            answer = b"".join([data async for data in client])
            await client.aclose()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    return body


@asynccontextmanager
async def stacks(identities, kind, origin):
    if kind == "inbound":
        yield inbound()
    elif kind == "outbound":
        yield outbound()
    elif kind == "mesh":
        async with serving(inbound(identities[API], require_identity=True)) as sidecar:
            yield outbound(identities[WEB], {str(origin.address): MeshPeer(API, sidecar.port)})
    elif kind == "reverse":
        yield reverse_proxy([str(origin.address)])
    else:
        async with serving(
            reverse_proxy([str(origin.address)], identity=identities[API], require_identity=True)
        ) as sidecar:
            yield reverse_proxy([str(sidecar)], identity=identities[WEB], peer_identity=API)


@pytest.mark.parametrize(
    ("kind", "form"),
    [("inbound", "whole"), ("outbound", "whole"), ("mesh", "whole"), ("reverse", "origin"), ("two lines", "origin")],
)
async def test_a_whole_url_stays_one_before_an_application_that_knows_of_no_proxy(identities, kind, form):
    async with tcp_origin(repeat) as origin, stacks(identities, kind, origin) as stack:
        got = await ask(stack, WHOLE, origin.address)
        # What it names and what Host says are one: nobody can take it for a request to somebody else.
        assert got.startswith(SAID[form] + b"\r\nhost: shop.example:81\r\n")
        assert b"other.example" not in got
        assert (await ask(stack, ORIGIN, origin.address)).startswith(SAID["origin"] + b"\r\nhost: shop.example:81\r\n")


async def test_a_refused_connection_to_the_application_says_what_reaches_it(identities):
    with trio.fail_after(PATIENCE), held_port() as port:
        client, connection = memory_connection(original_dst=Address("127.0.0.1", port))
        async with opened(inbound()) as service, trio.open_nursery() as nursery:
            nursery.start_soon(service, connection)
            await client.send_all(ORIGIN)
            answer = b"".join([data async for data in client])
            await client.aclose()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"Connection refused" in answer
    assert b"only with --app 127.0.0.1:PORT" in answer
