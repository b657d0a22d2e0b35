"""Linkerd's ``tap.Tap/Observe``: live requests for those identities that may see them, over mutual TLS."""

from __future__ import annotations

import base64
import random
from dataclasses import dataclass, field

from linkerd_proxy.address import parse_address
from linkerd_proxy.core.contain import record_failure
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.errors import Denied, InvalidConfiguration
from linkerd_proxy.grpc.net_api import TcpAddress, header_fields, http_method, http_scheme, tcp_address
from linkerd_proxy.grpc.server import Grpc, server_stream
from linkerd_proxy.grpc.serving import ServerCall
from linkerd_proxy.grpc.status import GrpcError
from linkerd_proxy.grpc.tap_api import (
    INBOUND,
    OBSERVE,
    OUTBOUND,
    Eos,
    HttpEvent,
    Labels,
    ObserveRequest,
    RequestInit,
    ResponseEnd,
    ResponseInit,
    StreamId,
    TapEvent,
)
from linkerd_proxy.grpc.times import duration
from linkerd_proxy.grpc_status import GrpcStatus
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.mesh.tap_request import match_of
from linkerd_proxy.mesh.tap_stream import OpenTaps, TapReader, TapWish, tap_here
from linkerd_proxy.metrics.tap_events import RequestBegun, ResponseBegun, ResponseEnded
from linkerd_proxy.metrics.tap_events import TapEvent as Event
from linkerd_proxy.tls.identity import Identity
from linkerd_proxy.tls.terminate import Terminate

__all__ = ["tap_server"]

_ALIVE = 60.0  # seconds without events; HTTP/2 tells by itself when a reader has gone
_MAX_MESSAGE = 65536  # bytes of a request: its match is a tree, and this bounds how deep it can be
_MAX_TOLD = 100_000  # requests at once, Linkerd's figure; more are those whose end was dropped
_DIRECTIONS = {"inbound": INBOUND, "outbound": OUTBOUND}
_RESETS = {"CANCEL": 0x8}  # RFC 9113 section 7; all other failures are INTERNAL_ERROR
_INTERNAL_ERROR = 0x2

_Call = ServerCall[ObserveRequest, TapEvent]


def tap_server(
    identity: Identity, *allowed: str, dice: random.Random | None = None, taps: OpenTaps = tap_here
) -> Stack[Connection]:
    """Return a stack that serves Linkerd's tap, as ``linkerd viz tap`` asks for it on port 4190.

    ::

        await serve(tap_server(identity, "tap.linkerd-viz.serviceaccount.identity.linkerd.cluster.local"), listeners)

    It shows what passes the :class:`~linkerd_proxy.metrics.tap.Tap` layers of this Trio run. A reader that is too slow
    loses events and delays nobody; how many is told in the trailer ``l5d-tap-dropped``.

    Args:
        identity: What the proxy proves.
        allowed: The identities that may look, exactly these. Others get ``PERMISSION_DENIED``, and clients without a
            certificate ``UNAUTHENTICATED``.
        dice: What chooses the number by which clients tell this process from others.
        taps: What it looks at; ``Workers.tapped`` where workers have the traffic.

    Raises:
        InvalidConfiguration: if nobody is allowed.

    Source: linkerd2-proxy, linkerd/proxy/tap and linkerd/app/src/tap.rs.
    """
    if not all(allowed) or not allowed:
        raise InvalidConfiguration("tap_server lets nobody look: name the identities that may")
    observer = _Observer(frozenset(allowed), (dice or random.Random()).getrandbits(32), taps)
    answers = Grpc(server_stream(OBSERVE, observer.observe), max_message=_MAX_MESSAGE)
    return Terminate(identity, server_names=("*",), alpn=("h2",)) | Http() | Rescue() | answers


@dataclass(frozen=True, slots=True)
class _Observer:
    """Answers ``Observe``."""

    allowed: frozenset[str]
    base: int
    taps: OpenTaps

    async def observe(self, message: ObserveRequest, call: _Call) -> None:
        """Send what matches, until the limit is reached or the caller goes."""
        self._authorize(call.connection)
        if message.limit == 0:
            raise GrpcError(GrpcStatus.INVALID_ARGUMENT, "the limit is 0: ask for at least one request")
        match = message.match if message.HasField("match") else None
        try:
            match_of(match)
        except InvalidConfiguration as error:
            raise GrpcError(GrpcStatus.INVALID_ARGUMENT, str(error)) from None
        headers = message.extract.http.WhichOneof("extract") == "headers"
        text = "" if match is None else base64.b64encode(match.SerializeToString()).decode("ascii")
        async with self.taps(TapWish("observe", text, message.limit, headers=headers)) as tap:
            call.start()
            try:
                await _Telling(self.base, call).tell(tap)
            finally:
                if tap.dropped:
                    call.set_trailers([("l5d-tap-dropped", str(tap.dropped))])

    def _authorize(self, connection: Connection) -> None:
        tls = connection.tls
        identity = None if tls is None else tls.peer_identity
        if identity in self.allowed:
            return
        # On one line, held back where there are too many.
        who = f"the client {identity}" if identity else "a client without an identity"
        record_failure(Denied(f"{who} may not tap", layer="tap_server"), connection)
        if identity is None:
            raise GrpcError(GrpcStatus.UNAUTHENTICATED, "tap is for clients with a certificate of the mesh")
        raise GrpcError(GrpcStatus.PERMISSION_DENIED, f"{identity} may not tap this proxy")


@dataclass(slots=True)
class _Told:
    """A request whose beginning was told."""

    begun: RequestBegun
    answered: float | None = None


@dataclass(slots=True)
class _Telling:
    """Tells one caller what happens, in Linkerd's messages."""

    base: int
    call: _Call
    told: dict[int, _Told] = field(default_factory=dict)

    async def tell(self, tap: TapReader) -> None:
        """Send events until the tap ends."""
        while (batch := await tap.next_batch(_ALIVE)) is not None:
            for event in batch[0]:
                message = self._message(event)
                if message is not None:
                    await self.call.send(message)

    def _message(self, event: Event) -> TapEvent | None:
        if isinstance(event, RequestBegun):
            if len(self.told) >= _MAX_TOLD:
                del self.told[next(iter(self.told))]
            self.told[event.id] = _Told(event)
            return self._between(event, HttpEvent(request_init=self._request(event)))
        told = self.told.get(event.id)
        if told is None:
            return None  # its beginning was dropped: nothing could be told of whose it is
        if isinstance(event, ResponseBegun):
            told.answered = event.after
            return self._between(told.begun, HttpEvent(response_init=self._response(event)))
        assert isinstance(event, ResponseEnded)  # the match wants no connections
        del self.told[event.id]
        return self._between(told.begun, HttpEvent(response_end=self._end(event, told.answered)))

    def _between(self, begun: RequestBegun, event: HttpEvent) -> TapEvent:
        labels = dict(begun.labels)
        return TapEvent(
            source=_address(begun.source),
            destination=_address(begun.destination),
            http=event,
            source_meta=Labels(labels={"tls": "true", "client_id": begun.client_id} if begun.client_id else {}),
            destination_meta=Labels(labels=labels),
            proxy_direction=_DIRECTIONS.get(labels.get("direction", ""), 0),
        )

    def _id(self, number: int) -> StreamId:
        return StreamId(base=self.base, stream=number)

    def _request(self, event: RequestBegun) -> RequestInit:
        return RequestInit(
            id=self._id(event.id),
            method=http_method(event.method),
            scheme=http_scheme(event.scheme),
            authority=event.authority,
            path=event.path,
            headers=header_fields(event.headers) if event.headers else None,
        )

    def _response(self, event: ResponseBegun) -> ResponseInit:
        return ResponseInit(
            id=self._id(event.id),
            since_request_init=duration(event.after),
            http_status=event.status,
            headers=header_fields(event.headers) if event.headers else None,
        )

    def _end(self, event: ResponseEnded, answered: float | None) -> ResponseEnd:
        eos = None
        if event.error:
            eos = Eos(reset_error_code=_RESETS.get(event.error, _INTERNAL_ERROR))
        elif event.grpc_status:
            eos = Eos(grpc_status_code=int(event.grpc_status))
        return ResponseEnd(
            id=self._id(event.id),
            since_request_init=duration(event.after),
            since_response_init=duration(0.0 if answered is None else event.after - answered),
            response_bytes=event.response_bytes,
            eos=eos,
            trailers=header_fields(event.trailers) if event.trailers else None,
        )


def _address(text: str) -> TcpAddress | None:
    try:
        return tcp_address(parse_address(text))
    except InvalidConfiguration:  # the unnamed end of a Unix socket
        return None
