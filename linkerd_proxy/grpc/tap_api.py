"""Linkerd's tap API: look at the requests that pass a proxy.

Source: linkerd2-proxy-api, proto/tap.proto. Messages that are nested there have flat names here, which are not sent.
"""

from __future__ import annotations

from collections.abc import MutableMapping, MutableSequence

from linkerd_proxy.grpc.method import Method
from linkerd_proxy.grpc.net_api import HttpHeaders, HttpMethod, HttpScheme, IpAddress, TcpAddress
from linkerd_proxy.grpc.schema import Field, Message, int32, mapping, nested, repeated, string, uint32, uint64
from linkerd_proxy.grpc.times import Duration

__all__ = [
    "INBOUND", "OBSERVE", "OUTBOUND", "Eos", "Extract", "ExtractHttp", "HttpEvent", "HttpMatch", "Labels", "Match",
    "MatchSeq", "Netmask", "NoFields", "ObserveRequest", "PairMatch", "PortRange", "RequestInit", "ResponseEnd",
    "ResponseInit", "StreamId", "StringMatch", "TapEvent", "TcpMatch",
]  # fmt: skip

INBOUND, OUTBOUND = 1, 2  # ProxyDirection


class Netmask(Message, name="io.linkerd.proxy.tap.Netmask"):
    """A network."""

    ip: Field[IpAddress] = nested(1, IpAddress)
    mask: Field[int] = uint32(2)


class PortRange(Message, name="io.linkerd.proxy.tap.PortRange"):
    """Ports from one to another; where one of them is left out, only the other."""

    min: Field[int] = uint32(1)
    max: Field[int] = uint32(2)


class TcpMatch(Message, name="io.linkerd.proxy.tap.TcpMatch"):
    """One end of a connection."""

    netmask: Field[Netmask] = nested(1, Netmask, oneof="match")
    ports: Field[PortRange] = nested(3, PortRange, oneof="match")


class StringMatch(Message, name="io.linkerd.proxy.tap.StringMatch"):
    """A text, or what it begins with."""

    exact: Field[str] = string(1, oneof="match")
    prefix: Field[str] = string(2, oneof="match")


class HttpMatch(Message, name="io.linkerd.proxy.tap.HttpMatch"):
    """One part of a request's head."""

    scheme: Field[HttpScheme] = nested(1, HttpScheme, oneof="match")
    authority: Field[StringMatch] = nested(2, StringMatch, oneof="match")
    method: Field[HttpMethod] = nested(3, HttpMethod, oneof="match")
    path: Field[StringMatch] = nested(4, StringMatch, oneof="match")


class PairMatch(Message, name="io.linkerd.proxy.tap.Label"):
    """A label."""

    key: Field[str] = string(1)
    value: Field[str] = string(2)


class MatchSeq(Message, name="io.linkerd.proxy.tap.Seq"):
    """Some matches."""

    matches: Field[MutableSequence[Match]] = repeated(nested(1, lambda: Match))


class Match(Message, name="io.linkerd.proxy.tap.Match"):
    """What must be true of a request."""

    all: Field[MatchSeq] = nested(1, MatchSeq, oneof="match")
    any: Field[MatchSeq] = nested(2, MatchSeq, oneof="match")
    not_: Field[Match] = nested(3, lambda: Match, oneof="match")
    source: Field[TcpMatch] = nested(4, TcpMatch, oneof="match")
    destination: Field[TcpMatch] = nested(5, TcpMatch, oneof="match")
    http: Field[HttpMatch] = nested(6, HttpMatch, oneof="match")
    destination_label: Field[PairMatch] = nested(7, PairMatch, oneof="match")
    route_label: Field[PairMatch] = nested(8, PairMatch, oneof="match")


class NoFields(Message, name="io.linkerd.proxy.tap.HeadersExtract"):
    """Has no fields."""


class ExtractHttp(Message, name="io.linkerd.proxy.tap.ExtractHttp"):
    """What else of a message is wanted."""

    headers: Field[NoFields] = nested(1, NoFields, oneof="extract")


class Extract(Message, name="io.linkerd.proxy.tap.Extract"):
    """What else is wanted."""

    http: Field[ExtractHttp] = nested(1, ExtractHttp, oneof="extract")


class ObserveRequest(Message, name="io.linkerd.proxy.tap.ObserveRequest"):
    """Show so many requests that match."""

    limit: Field[int] = uint32(1)
    match: Field[Match] = nested(2, Match)
    extract: Field[Extract] = nested(3, Extract)


class StreamId(Message, name="io.linkerd.proxy.tap.StreamId"):
    """Which events belong together: ``base`` is the process's, ``stream`` the request's."""

    base: Field[int] = uint32(1)
    stream: Field[int] = uint64(2)


class RequestInit(Message, name="io.linkerd.proxy.tap.RequestInit"):
    """The head of a request."""

    id: Field[StreamId] = nested(1, StreamId)
    method: Field[HttpMethod] = nested(2, HttpMethod)
    scheme: Field[HttpScheme] = nested(3, HttpScheme)
    authority: Field[str] = string(4)
    path: Field[str] = string(5)
    headers: Field[HttpHeaders] = nested(6, HttpHeaders)


class ResponseInit(Message, name="io.linkerd.proxy.tap.ResponseInit"):
    """The head of a response."""

    id: Field[StreamId] = nested(1, StreamId)
    since_request_init: Field[Duration] = nested(2, Duration)
    http_status: Field[int] = uint32(3)
    headers: Field[HttpHeaders] = nested(4, HttpHeaders)


class Eos(Message, name="io.linkerd.proxy.tap.Eos"):
    """How a response ended, if it was not simply at its end."""

    grpc_status_code: Field[int] = uint32(1, oneof="end")
    reset_error_code: Field[int] = uint32(2, oneof="end")


class ResponseEnd(Message, name="io.linkerd.proxy.tap.ResponseEnd"):
    """The end of a response."""

    id: Field[StreamId] = nested(1, StreamId)
    since_request_init: Field[Duration] = nested(2, Duration)
    since_response_init: Field[Duration] = nested(3, Duration)
    response_bytes: Field[int] = uint64(4)
    eos: Field[Eos] = nested(5, Eos)
    trailers: Field[HttpHeaders] = nested(6, HttpHeaders)


class HttpEvent(Message, name="io.linkerd.proxy.tap.HttpEvent"):
    """One of three."""

    request_init: Field[RequestInit] = nested(1, RequestInit, oneof="event")
    response_init: Field[ResponseInit] = nested(2, ResponseInit, oneof="event")
    response_end: Field[ResponseEnd] = nested(3, ResponseEnd, oneof="event")


class Labels(Message, name="io.linkerd.proxy.tap.EndpointMeta"):
    """What is known of one end, or of the route."""

    labels: Field[MutableMapping[str, str]] = mapping(1, string(1), string(2))


class TapEvent(Message, name="io.linkerd.proxy.tap.TapEvent"):
    """Something that happened to a request, and between whom."""

    source: Field[TcpAddress] = nested(1, TcpAddress)
    destination: Field[TcpAddress] = nested(2, TcpAddress)
    http: Field[HttpEvent] = nested(3, HttpEvent, oneof="event")
    destination_meta: Field[Labels] = nested(4, Labels)
    source_meta: Field[Labels] = nested(5, Labels)
    proxy_direction: Field[int] = int32(6)
    route_meta: Field[Labels] = nested(7, Labels)


OBSERVE = Method("/io.linkerd.proxy.tap.Tap/Observe", ObserveRequest, TapEvent)
"""Server-streaming."""
