"""Every source of identities renews again and again under load, on both sides of a link, and no request fails.

By default for some quick renewals. ``LINKERD_PROXY_ROTATION_SECONDS=60 pytest -s tests/chaos/test_rotation.py`` renews
every 2 s for so long, and tells how many requests there were.
"""

import os
import sys
from contextlib import asynccontextmanager

import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding

from linkerd_proxy import (
    Client,
    Connect,
    Http,
    Originate,
    Rescue,
    Terminate,
    current_registry,
    open_listeners,
    opened,
    serve,
)
from linkerd_proxy.core.shared import hosting, shared
from linkerd_proxy.grpc import Grpc, server_stream, unary
from linkerd_proxy.grpc.identity_api import CERTIFY, CertifyResponse
from linkerd_proxy.grpc.times import timestamp
from linkerd_proxy.grpc.workload_api import FETCH_X509_SVID
from linkerd_proxy.tls.authority import Authority
from linkerd_proxy.tls.certify import Certify
from linkerd_proxy.tls.files import Files
from linkerd_proxy.tls.issued import Issued
from linkerd_proxy.tls.renewal import Renewal
from linkerd_proxy.tls.store import write_identity
from linkerd_proxy.tls.workload_api import Spiffe
from tests.flow.test_rotation import Tally, ask, hello
from tests.patience import PATIENCE
from tests.tls.test_workload_api import message, svid

SECONDS = float(os.environ.get("LINKERD_PROXY_ROTATION_SECONDS", "0"))
PERIOD = 2.0 if SECONDS else 0.05
RENEWAL = Renewal(minimum=PERIOD, maximum=PERIOD)
ROTATIONS = 10
SERVER, CLIENT = "server.mesh.local", "client.mesh.local"


@asynccontextmanager
async def issued(authority, _directory):
    yield [Issued(authority, name, renewal=RENEWAL) for name in (SERVER, CLIENT)]


@asynccontextmanager
async def files(authority, directory):
    """Have somebody else write the files anew."""

    def write():
        for name in (SERVER, CLIENT):
            write_identity(directory / name, authority.issue(name))

    async def keep_writing():
        while True:
            await trio.sleep(PERIOD)
            write()

    write()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_writing)
        yield [Files(str(directory / name), interval=PERIOD / 5) for name in (SERVER, CLIENT)]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def certified(authority, _directory):
    der, pem = Encoding.DER, Encoding.PEM

    async def certify(request, _call):
        chain = authority.sign(request.identity, request.certificate_signing_request, lifetime=600.0)
        return CertifyResponse(
            leaf_certificate=chain[0].public_bytes(der),
            intermediate_certificates=[one.public_bytes(der) for one in chain[1:]],
            valid_until=timestamp(chain[0].not_valid_after_utc),
        )

    anchors = b"".join(one.public_bytes(pem) for one in authority.anchors).decode()
    via = Grpc(unary(CERTIFY, certify))
    yield [Certify(name, via, anchors, renewal=RENEWAL) for name in (SERVER, CLIENT)]


@asynccontextmanager
async def pushed(authority, _directory):
    """Have an agent push what is new."""

    def agent(name):
        async def fetch(_request, call):
            while True:
                await call.send(message(svid(authority.issue(name))))
                await trio.sleep(PERIOD)

        return Grpc(server_stream(FETCH_X509_SVID, fetch))

    yield [Spiffe(agent(f"spiffe://mesh.local/{name}")) for name in ("server", "client")]


def refreshes(result):
    return current_registry().counter("control_identity_cert_refreshes_total", "", result=result).value


@pytest.mark.parametrize("source", [issued, files, certified, pushed])
async def test_no_request_fails_while_certificates_are_renewed_again_and_again(source, tmp_path):
    tally, peer = Tally(), SERVER if source is not pushed else "spiffe://mesh.local/server"
    (listener,) = await open_listeners("127.0.0.1:0")
    async with source(Authority.create("mesh.local"), tmp_path) as (server, client), trio.open_nursery() as nursery:
        terminate = Terminate(server, require_identity=True) | Http() | Rescue() | hello
        await nursery.start(serve, terminate, [listener])
        ask_over = Rescue() | Client(protocol="http/1.1") | Originate(client, peer=peer) | Connect(listener.address)
        began = trio.current_time()

        def is_over():
            return trio.current_time() - began >= SECONDS and refreshes("ok") >= 2 + ROTATIONS

        async def stay(service):
            while not is_over():
                await ask(service, tally, body=b"x" * 5000)

        async def come_anew():
            while not is_over():
                async with opened(ask_over) as fresh:  # its identity is the one that is open
                    await ask(fresh, tally)

        async with hosting(), shared(client), opened(ask_over) as service:
            while refreshes("ok") < 2:  # both get their first certificate; a counter wakes nobody
                await trio.lowlevel.checkpoint()
            with trio.fail_after(SECONDS + PATIENCE):
                async with trio.open_nursery() as load:
                    load.start_soon(stay, service)
                    load.start_soon(come_anew)
        nursery.cancel_scope.cancel()
    if SECONDS:
        figures = f"{tally.right} requests, {refreshes('ok'):.0f} renewals, {len(tally.wrong)} failed"
        sys.stdout.write(f"\n{source.__name__}: {figures}\n")
    assert tally.wrong == []
    assert tally.right > 0
    assert refreshes("error") == 0
