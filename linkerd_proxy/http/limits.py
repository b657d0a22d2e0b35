"""Every limit and deadline of HTTP, with its source: one value that a user can change and pass on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, TypeAlias

from linkerd_proxy.document.shape import Duration, Range
from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["Limits", "described", "named"]

_KIB = 1024
_MOST = 2**31 - 1  # what a window of HTTP/2 may be (RFC 9113 section 6.9.1), and more than enough of anything else

Size: TypeAlias = Annotated[int, Range(0, _MOST)]
Rate: TypeAlias = Annotated[float, Range(0, 1e9)]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Limits:
    """What peers may ask of the HTTP codecs: sizes in bytes, times in seconds, counts.

    Derive your own with ``Limits(header_timeout=5)`` or ``dataclasses.replace``. "Own" marks a figure that is
    nobody's default.
    """

    # --- heads, of all versions ---

    max_head: Size = 16 * _KIB
    """Bytes of a head: request or status line and fields; more is 431 (hyper and HAProxy: 16 KiB)."""
    max_fields: Size = 100
    """Fields of a head, cookie crumbs counted one by one; more is 431 (hyper, Envoy: 100)."""
    max_target: Size = 8 * _KIB
    """Bytes of a request target; more is 414 (nginx: 8 KiB)."""
    max_trailers: Size = 8 * _KIB
    """Bytes of a trailer section (own)."""
    max_informational: Size = 16
    """1xx responses before a final one (own)."""
    strict_line_ends: bool = False
    """Whether a bare LF that ends a line of a head is refused with 400, or read as CRLF (RFC 9112 section 2.2)."""
    upgrades: frozenset[str] = frozenset({"websocket"})
    """Protocols that a client may change to; other offers are stripped (h2c among them: request smuggling)."""

    # --- the client's side ---

    header_timeout: Duration = 10.0
    """From a request's first byte to the end of its head, whatever trickles in meanwhile (HAProxy's
    ``timeout http-request``; Linkerd detects within 10 s)."""
    keep_alive_idle: Duration = 60.0
    """How long a client's connection may wait for its next request (reliability: nginx has 75 s)."""
    body_idle: Duration = 60.0
    """How long a request body may stand still while it is waited for (nginx: ``client_body_timeout`` 60 s)."""
    body_grace: Duration = 5.0
    """Seconds of waiting that a body gets before its rate is measured (own, in the manner of Apache TS)."""
    body_rate: Rate = 240.0
    """Bytes a second that a request body must reach on average while it is waited for; 0 for any (own)."""
    write_stall: Duration = 60.0
    """How long a peer may take nothing of what is sent to it before it is cut off (nginx: ``send_timeout`` 60 s)."""
    max_requests: Size = 100_000
    """Requests on one client connection before it is ended in good order (own; nginx: 1000)."""
    max_unread: Size = 64 * _KIB
    """Bytes of a request body nobody read that are thrown away so that the connection can go on (own)."""
    linger: Duration = 2.0
    """How long a closing connection takes in and discards, so that the client can read its answer (nginx: 5 s)."""

    # --- chunked coding ---

    max_chunk_extensions: Size = 1 * _KIB
    """Bytes of chunk extensions in one message (own; Go counts them since CVE-2023-39326)."""
    max_chunk_extension_average: Size = 16
    """Bytes of extension per chunk, on average over a message; a first kibibyte is not free of this (own)."""

    # --- the upstream's side ---

    pool_idle: Duration = 3.0
    """How long an unused connection is kept (Linkerd: 3 s, below what backends allow)."""
    max_idle: Size = 512
    """Unused connections kept per target (own; Linkerd: 10,000)."""
    max_connections: Size = 1024
    """HTTP/1 connections per target; further requests wait (own)."""
    max_waiting: Size = 200
    """Requests that may wait for a connection; more are refused with 503 (own)."""
    pool_wait: Duration = 3.0
    """How long a request may wait for a connection before it is refused with 503 (Linkerd's outbound failfast)."""
    upstream_idle: Duration = 300.0
    """How long an upstream may send nothing while it is waited for (Envoy's stream idle timeout: 5 min).
    ``Timeout`` layers set what an application wants; this only makes sure that nothing hangs for ever."""
    expect_continue: Duration = 1.0
    """How long an upstream may think about ``Expect: 100-continue`` before it gets the body anyway (curl: 1 s)."""
    tunnel_idle: Duration = 600.0
    """How long a tunnel whose other direction has ended may stand still (own; half-open connections)."""

    # --- HTTP/2 (RFC 9113; the flood limits follow Envoy, Apache TS and Sozu) ---

    h2_max_streams: Size = 100
    """Concurrent streams of a client (Envoy's edge profile: 100)."""
    h2_stream_window: Size = 65_535
    """Receive window of a stream (Linkerd: 65,535)."""
    h2_connection_window: Size = 1024 * _KIB
    """Receive window of a connection (Linkerd: 1 MiB)."""
    h2_max_continuations: Size = 8
    """CONTINUATION frames in a block (own: a 16 KiB list needs one; CVE-2024-27316)."""
    h2_send_buffer: Size = 64 * _KIB
    """Bytes waiting to be written on a connection above which streams wait before they add content, and above which,
    not counting content, nothing more is read (own; with a peer that does not read, everything stands still)."""
    h2_max_streams_total: Size = 100_000
    """Streams of one client connection before it is ended in good order (own)."""
    h2_client_streams_total: Size = 1_000_000
    """Streams on one upstream connection before it is replaced (own: ids end at 2**31)."""
    h2_client_idle: Duration = 60.0
    """How long an upstream HTTP/2 connection without streams is kept (own)."""
    h2_client_max_connections: Size = 16
    """HTTP/2 connections per target, opened as streams run out (own)."""
    h2_resets_per_second: Rate = 100.0
    """Streams that a client may reset a second, with bursts of twice as many (CVE-2023-44487)."""
    h2_early_resets: Size = 50
    """Resets before the response had begun, within 30 s (Sozu: 50)."""
    h2_own_resets: Size = 100
    """Resets that a peer may make us send, per minute (CVE-2025-8671)."""
    h2_settings_per_minute: Size = 14
    """SETTINGS frames (Apache TS: 14 a minute)."""
    h2_pings_per_minute: Size = 60
    """PING frames (Apache TS: 60 a minute)."""
    h2_max_unsent_control: Size = 1000
    """Acknowledgements and resets waiting to be sent (Envoy: 1000)."""
    h2_empty_frames: Size = 10
    """Empty DATA or HEADERS frames in a row (own; CVE-2019-9518)."""
    h2_small_frames: Size = 10_000
    """DATA frames below 256 bytes that may come as a burst, and per 10 MB of content (own; CVE-2019-9511)."""
    h2_small_frames_per_second: Rate = 5000.0
    """DATA frames below 256 bytes at a steady pace: a gRPC stream of small messages is no attack (own)."""
    h2_priorities_per_stream: Size = 100
    """PRIORITY frames for each stream opened, and for one more (Envoy: 100)."""
    h2_window_updates_per_data: Size = 10
    """WINDOW_UPDATE frames for each DATA frame sent, in Envoy's formula 5 + 2 * (streams + 10 * DATA sent)."""
    h2_overhead: Size = 1024 * _KIB
    """Bytes that may come beyond eight times the bytes of fields and content (nginx's "http2 flood detected")."""
    h2_preface_timeout: Duration = 10.0
    """Until a peer's SETTINGS have come, or the rest of a field block (Linkerd detects within 10 s)."""
    h2_max_glitches: Size = 100
    """Breaches of the protocol that are forgiven on one connection (Sozu, HAProxy)."""
    h2_keep_alive_interval: Duration = 0.0
    """How long an HTTP/2 connection with streams may be silent before it is asked with a PING; 0 for never, as in
    Linkerd without its charts (which say 10 s). gRPC servers cut clients off that ask more often than they allow."""
    h2_keep_alive_timeout: Duration = 3.0
    """How long that PING may stay unanswered (Linkerd's charts)."""
    h2_goaway_delay: Duration = 1.0
    """Between the first GOAWAY, which only warns, and the one that names the last stream (RFC 9113 section 6.8)."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, int | float) and not value >= 0:
                raise InvalidConfiguration(f"Limits({name}={value!r}) is negative: give 0 or more")
            if isinstance(value, int) and value > _MOST:
                raise InvalidConfiguration(f"Limits({name}={value!r}) is too much: give at most {_MOST}")

    def __repr__(self) -> str:
        if self in _NAMED:
            return _NAMED[self]
        changed = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"Limits({', '.join(changed)})"


_NAMED: dict[Limits, str] = {}


def named(name: str, limits: Limits) -> Limits:
    """Let limits that are a constant show themselves by its name."""
    _NAMED[limits] = name
    return limits


def described(name: str, **values: tuple[object, object]) -> str:
    """Return a layer's ``repr`` that names only what differs from the default, given as (value, default)."""
    parts = [f"{key}={value!r}" for key, (value, default) in values.items() if value != default]
    return f"{name}({', '.join(parts)})"
