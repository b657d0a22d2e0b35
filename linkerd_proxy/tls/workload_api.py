"""An identity from the SPIFFE Workload API: an agent on this host pushes certificates, keys and whom to trust."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import trio

from linkerd_proxy.core.background import open_background
from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.grpc.client import GrpcClient
from linkerd_proxy.grpc.status import GrpcError
from linkerd_proxy.grpc.workload_api import (
    FETCH_X509_SVID,
    SECURITY_HEADER,
    X509Svid,
    X509SvidRequest,
    X509SvidResponse,
)
from linkerd_proxy.grpc_status import GrpcStatus
from linkerd_proxy.names import is_spiffe, problem_of
from linkerd_proxy.tls.acceptance import Unusable, accept, load_der, load_key, split_der
from linkerd_proxy.tls.identity import Credentials, Identity, LiveIdentity
from linkerd_proxy.tls.renewal import Reported

__all__ = ["Spiffe"]

_RETRY = Backoff(0.1, 1.0, 0.1)  # Linkerd's
_MAX_MESSAGE = 16 << 20  # bytes; own figure: federated bundles of hundreds of domains


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, repr=False)
class Spiffe(Identity):
    """An identity that a SPIFFE Workload API (SPIRE's agent, for one) hands out, and keeps handing out.

    Every message replaces what came before it: certificate, key, trust bundle. It is published only if peers would
    accept it, with a chain up to the bundle that came with it. When the stream breaks it is opened again, and what was
    published stays until it expires. The script's way to the agent is ``spiffe()`` of ``linkerd_proxy``.

    Args:
        via: The way to the agent.
        name: The SPIFFE ID to use, where the agent hands out several; by default the first.
        retry: How long to wait after a stream has ended.
        now: The wall clock, for tests.
        dice: For the jitter, for tests.

    It opens at once and gets the first certificate in the background. If the agent says that the request itself is
    wrong (``INVALID_ARGUMENT``), it is not asked again.

    Raises:
        InvalidConfiguration: when made, if ``name`` is no SPIFFE ID.

    Source: spiffe/spiffe, standards/SPIFFE_Workload_API.md; linkerd2-proxy, linkerd/proxy/spire-client.
    """

    via: Stack[Exchange]
    name: str | None = None
    retry: Backoff = _RETRY
    now: Callable[[], datetime] = field(default=_utc_now, repr=False, compare=False)
    dice: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.name is not None and (not is_spiffe(self.name) or problem_of(self.name)):
            raise InvalidConfiguration(f"Spiffe(name={self.name!r}) is no SPIFFE ID: write spiffe://trust-domain/path")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LiveIdentity]:
        """Yield the identity, which follows the agent until the end of the block."""
        live = LiveIdentity(self.name or "")
        async with open_background() as nursery:
            nursery.start_soon(self._run, live)
            yield live

    async def _run(self, live: LiveIdentity) -> None:
        reported = Reported(live)
        failures = 0
        async with opened(self.via) as service:
            client = GrpcClient(service, metadata=[SECURITY_HEADER], max_message=_MAX_MESSAGE)
            while True:
                problem: Exception = GrpcError(GrpcStatus.UNAVAILABLE, "the agent ended the stream")
                try:
                    async with client.server_stream(FETCH_X509_SVID, X509SvidRequest()) as messages:
                        async for message in messages:
                            if self._take(message, live, reported):
                                failures = 0
                except GrpcError as error:
                    problem = error
                if isinstance(problem, GrpcError) and problem.status is GrpcStatus.INVALID_ARGUMENT:
                    reported.gave_up(problem)
                    return
                failures += 1
                wait = self.retry.seconds(failures, self.dice)
                reported.failed(problem, wait, self.now())
                await trio.sleep(wait)

    def _take(self, message: X509SvidResponse, live: LiveIdentity, reported: Reported) -> bool:
        """Publish what a message brings, unless nothing of it can be used; return which."""
        now = self.now()
        try:
            credentials = _credentials(self._chosen(message), message, now)
        except Unusable as error:
            reported.failed(error, None, now)
            return False
        live.name = credentials.name
        reported.publish(credentials, now)
        return True

    def _chosen(self, message: X509SvidResponse) -> X509Svid:
        for svid in message.svids:
            if self.name is None or svid.spiffe_id == self.name:
                return svid
        theirs = ", ".join(svid.spiffe_id for svid in message.svids) or "none"
        raise Unusable(f"the agent has no identity {self.name or 'for this workload'}; it has {theirs}")


def _credentials(svid: X509Svid, message: X509SvidResponse, now: datetime) -> Credentials:
    if not is_spiffe(svid.spiffe_id) or problem_of(svid.spiffe_id):
        raise Unusable(f"the agent's identity {svid.spiffe_id[:300]!r} is no SPIFFE ID")
    chain = load_der(split_der(svid.x509_svid))
    anchors = load_der(split_der(svid.bundle))
    credentials = accept(svid.spiffe_id, chain, load_key(svid.x509_svid_key), anchors, now)
    federated = {
        domain.removeprefix("spiffe://").rstrip("/"): load_der(split_der(bundle))
        for domain, bundle in sorted(message.federated_bundles.items())
    }
    return replace(credentials, federated=federated)
