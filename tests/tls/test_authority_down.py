"""An authority that is down for minutes: traffic goes on, new connections too, until the certificate expires."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import trio
from cryptography.hazmat.primitives.serialization import Encoding

from linkerd_proxy import Certify, Client, Http, Originate, Rescue, Terminate, handler, opened
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.grpc import Grpc, GrpcError, GrpcStatus, unary
from linkerd_proxy.grpc.identity_api import CERTIFY, CertifyResponse
from linkerd_proxy.grpc.times import timestamp
from linkerd_proxy.testing import MemoryConnect, MemoryListener, call, serving
from linkerd_proxy.tls.authority import Authority

WEB = "web.mesh.local"


async def test_traffic_goes_on_and_readiness_turns_off_only_at_expiry(autojump_clock):
    # OpenSSL has the real clock, so the certificates are of now, and only our own clock is wound.
    start = datetime.now(UTC)

    def wall():
        return start + timedelta(seconds=trio.current_time() - begun)

    begun = trio.current_time()
    authority = Authority.create(now=wall)
    down = False

    async def certify(request, _):
        if down:
            raise GrpcError(GrpcStatus.UNAVAILABLE, "down")
        chain = authority.sign(request.identity, request.certificate_signing_request, lifetime=600)
        return CertifyResponse(
            leaf_certificate=chain[0].public_bytes(Encoding.DER), valid_until=timestamp(chain[0].not_valid_after_utc)
        )

    anchors = authority.certificate.public_bytes(Encoding.PEM).decode()
    identity = Certify(WEB, Grpc(unary(CERTIFY, certify)), anchors, now=wall, dice=random.Random(1))

    async def answer(request: Request) -> Response:
        return Response(200, body=b"here")

    listener = MemoryListener()
    server = Terminate(identity, require_identity=True) | Http() | Rescue() | handler(answer)
    client = Client() | Originate(identity, peer=WEB) | MemoryConnect(listener)
    async with identity.open() as watched, serving(server, listener), opened(client) as service:
        await watched.wait_changed()
        await trio.sleep(1)

        async def answered() -> bytes:
            # HTTP/1.0 is not kept alive: each request is a handshake.
            async with call(service, Request("GET", "/", authority="a", version="1.0")) as response:
                return await response.body.read()

        assert await answered() == b"here"
        down = True
        was_ready = []
        for _ in range(59):
            await trio.sleep(10)
            assert await answered() == b"here"
            was_ready.append(watched.is_valid(wall()))
        assert all(was_ready)
        await trio.sleep(15)
        assert not watched.is_valid(wall())
        down = False
        await watched.wait_changed()
        assert watched.is_valid(wall())
