"""An identity that an authority certifies over the network, by Linkerd's protocol."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from linkerd_proxy.core.background import open_background
from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.grpc.client import GrpcClient
from linkerd_proxy.grpc.identity_api import CERTIFY, CertifyRequest, CertifyResponse
from linkerd_proxy.grpc.status import GrpcError
from linkerd_proxy.grpc.times import moment_of
from linkerd_proxy.names import check_identity
from linkerd_proxy.tls.acceptance import Unusable, accept, load_der, load_key
from linkerd_proxy.tls.identity import Credentials, Identity, LiveIdentity
from linkerd_proxy.tls.leaf import general_name
from linkerd_proxy.tls.private import read_file
from linkerd_proxy.tls.renewal import RETRY, Renewal, Reported

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

__all__ = ["Certify"]

_RENEWAL = Renewal()
_TIMEOUT = 10.0  # seconds for one attempt; own figure
_PEM = "-----BEGIN"
CSR = "csr.der"
KEY = "key.p8"


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, repr=False)
class Certify(Identity):
    """An identity whose certificates come from an authority: Linkerd's own flow, ``identity.Identity/Certify``.

    The key is made here, on P-256 and anew for every certificate, and never leaves the process. A certificate is
    published only if peers would accept it: issued for this name and this key, valid now, and with a chain up to one
    of the anchors. It is renewed at 70 % of its life. If that fails it is tried again, and the certificate in use
    stays until it expires.

    Args:
        name: The identity to ask for.
        via: The way to the authority.
        anchors: Whom to trust: PEM, or the path of a file with PEM, which is read each time.
        token_file: What proves to the authority who asks. It is read each time, for others renew it. None sends none.
        renew_via: Makes the way for renewals, given this identity: who asks is then proved by the certificate that is
            still valid, and no token is sent. By default, and once it has expired, renewals go the first way.
        directory: Where ``csr.der`` and ``key.p8`` are, as Linkerd's init container leaves them; by default a key and a
            request are made here.
        renewals_send_token: Whether those renewals send the token as well, if its file is still there: Linkerd's
            authority asks for one each time.
        renewal: When to renew.
        retry: How long to wait after attempts that failed.
        authority: Whom the calls are for, as HTTP's ``:authority``.
        now: The wall clock, for tests.
        dice: For the jitter, for tests.

    It opens at once and gets the first certificate in the background.

    Raises:
        InvalidConfiguration: when made, if ``name`` is no identity.

    Source: linkerd2-proxy, linkerd/proxy/identity-client/src/certify.rs.
    """

    name: str
    via: Stack[Exchange]
    anchors: str = field(repr=False)
    token_file: str | None = None
    renew_via: Callable[[Identity], Stack[Exchange]] | None = None
    directory: str | None = None
    renewals_send_token: bool = False
    renewal: Renewal = _RENEWAL
    retry: Backoff = RETRY
    authority: str = "identity"
    now: Callable[[], datetime] = field(default=_utc_now, repr=False, compare=False)
    dice: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_identity(self.name, f"Certify({self.name!r})")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LiveIdentity]:
        """Yield the identity, which is renewed until the end of the block."""
        live = LiveIdentity(self.name)
        async with open_background() as nursery:
            nursery.start_soon(self._run, live)
            yield live

    async def _run(self, live: LiveIdentity) -> None:
        reported = Reported(live, self.retry, self.dice)
        async with opened(self.via) as service:
            until = await self._insist(live, reported, service, None)
            if self.renew_via is None:
                await self._keep(live, reported, service, None, until)
                return
            async with opened(self.renew_via(_Present(live))) as again:
                await self._keep(live, reported, service, again, until)

    async def _keep(
        self,
        live: LiveIdentity,
        reported: Reported,
        service: Service[Exchange],
        again: Service[Exchange] | None,
        until: datetime,
    ) -> None:
        while True:
            await self.renewal.wait(until, self.now)
            until = await self._insist(live, reported, service, again)

    async def _insist(
        self, live: LiveIdentity, reported: Reported, service: Service[Exchange], again: Service[Exchange] | None
    ) -> datetime:
        """Try until there is a certificate, publish it, and return until when it is good."""
        while True:
            proved = again is not None and live.is_valid(self.now())
            try:
                credentials, until = await self._obtain(again if again is not None and proved else service, not proved)
            except (GrpcError, InvalidConfiguration, Unusable) as error:
                await reported.wait_after(error, self.now())
            else:
                reported.publish(credentials, self.now())
                return until

    async def _obtain(self, service: Service[Exchange], with_token: bool) -> tuple[Credentials, datetime]:
        anchors = _read_anchors(self.anchors)
        key, request = self._key_and_request()
        asked = CertifyRequest(
            identity=self.name, token=self._token(needed=with_token), certificate_signing_request=request
        )
        client = GrpcClient(service, authority=self.authority)
        reply: CertifyResponse = await client.unary(CERTIFY, asked, timeout=_TIMEOUT)
        chain = load_der([reply.leaf_certificate, *reply.intermediate_certificates])
        now = self.now()
        credentials = accept(self.name, chain, key, anchors, now)
        until = min(credentials.not_after, _valid_until(reply))
        if until <= now:
            raise Unusable(f"the authority says that the certificate is valid until {until:%Y-%m-%dT%H:%M:%SZ}")
        return credentials, until

    def _token(self, *, needed: bool) -> bytes:
        if self.token_file is None or not (needed or self.renewals_send_token):
            return b""
        try:
            return read_file(Path(self.token_file)).strip()
        except InvalidConfiguration:
            if needed:
                raise
            return b""  # one that was good for once may be gone, and the certificate be enough

    def _key_and_request(self) -> tuple[CertificateIssuerPrivateKeyTypes, bytes]:
        if self.directory is not None:
            directory = Path(self.directory)
            return load_key(read_file(directory / KEY)), read_file(directory / CSR)
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([general_name(self.name)])
        request = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(names, critical=True)
        return key, request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True, slots=True)
class _Present(Identity):
    """An identity that is open already, for a layer on the way to its own authority."""

    live: LiveIdentity

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LiveIdentity]:
        yield self.live


def _valid_until(reply: CertifyResponse) -> datetime:
    if not reply.HasField("valid_until"):
        raise Unusable("the authority does not say until when the certificate is valid")
    try:
        return moment_of(reply.valid_until)
    except OverflowError:
        raise Unusable("the authority names a time that no calendar has") from None


def _read_anchors(anchors: str) -> tuple[x509.Certificate, ...]:
    from cryptography import x509

    text = anchors.encode() if _PEM in anchors else read_file(Path(anchors))
    where = "the trust anchors" if _PEM in anchors else anchors
    try:
        return tuple(x509.load_pem_x509_certificates(text))
    except ValueError as error:
        raise InvalidConfiguration(f"{where}: there is no readable certificate ({error}); give PEM") from None
