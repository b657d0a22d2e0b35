"""Flood limits: what a peer may send before it is told to calm down, in frames (CVE-2019-9511 to -9518 and later).

Every count is taken while a frame is read, so before a task or an upstream request exists for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from linkerd_proxy.http.h2.codes import ErrorCode, Violation
from linkerd_proxy.http.limits import Limits

__all__ = ["Bucket", "Floods"]

_SMALL = 256
_EARLY_WINDOW = 30.0
_GLITCH_PERIOD = 3600.0


class Bucket:
    """A token bucket: ``burst`` tokens at once, ``rate`` more a second."""

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._updated = now

    def take(self, now: float) -> bool:
        """Take one token; False if there is none."""
        self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def give(self, tokens: float) -> None:
        """Put tokens back, for traffic that earns them."""
        self._tokens = min(self._burst, self._tokens + tokens)


class Floods:
    """The counters of one connection. Every method raises :exc:`Violation` (ENHANCE_YOUR_CALM) above its limit.

    Args:
        limits: How much of what.
        clock: Gives the time in seconds.
    """

    __slots__ = (
        "_clock",
        "_early",
        "_earned",
        "_empty",
        "_glitches",
        "_limits",
        "_own_resets",
        "_paid",
        "_pings",
        "_priorities",
        "_resets",
        "_settings",
        "_small",
        "_window_updates",
        "data_sent",
        "payload",
        "streams",
        "total",
    )

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        now = clock()
        self._limits = limits
        self._clock = clock
        self._resets = Bucket(limits.h2_resets_per_second, 2 * limits.h2_resets_per_second, now)
        self._own_resets = Bucket(limits.h2_own_resets / 60, limits.h2_own_resets, now)
        self._settings = Bucket(limits.h2_settings_per_minute / 60, limits.h2_settings_per_minute, now)
        self._pings = Bucket(limits.h2_pings_per_minute / 60, limits.h2_pings_per_minute, now)
        self._small = Bucket(limits.h2_small_frames_per_second, limits.h2_small_frames, now)
        self._glitches = Bucket(limits.h2_max_glitches / _GLITCH_PERIOD, limits.h2_max_glitches, now)
        self._early: deque[float] = deque(maxlen=max(1, limits.h2_early_resets))
        self._empty = 0
        self._priorities = 0
        self._window_updates = 0
        self._paid = 0
        self._earned = 0
        self.streams: int = 0
        """Streams opened so far."""
        self.data_sent: int = 0
        """DATA frames sent so far."""
        self.payload: int = 0
        """Bytes of fields and content received so far."""
        self.total: int = 0
        """Bytes received so far."""

    def received(self, size: int) -> None:
        """Count bytes of any kind."""
        self.total += size
        if self.total // 8 > self.payload + self._limits.h2_overhead + 64 * self.data_sent:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "far more protocol than content (h2_overhead)")

    def data(self, size: int, ended: bool) -> None:
        """Count a DATA frame."""
        self.payload += size
        if size >= _SMALL:
            self._empty = 0
            return
        if not size and not ended:
            self.empty()
            return
        self._empty = 0
        if not ended:
            self._small.give((self.payload - self._paid) / 1000)
            self._paid = self.payload
            self._take(self._small, "small DATA frames (h2_small_frames)")

    def empty(self) -> None:
        """Count an empty DATA, HEADERS or CONTINUATION frame that ends nothing."""
        self._empty += 1
        if self._empty > self._limits.h2_empty_frames:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "empty frames in a row (h2_empty_frames)")

    def block(self, size: int) -> None:
        """Count a complete field block."""
        self.payload += size
        self._empty = 0

    def reset(self) -> None:
        """Count a stream that the peer reset, or that was refused because it has too many."""
        self._take(self._resets, "streams reset or refused (h2_resets_per_second)")

    def early_reset(self) -> None:
        """Count a stream that the peer reset before its response had begun (CVE-2023-44487)."""
        now = self._clock()
        early = self._early
        if len(early) == early.maxlen and now - early[0] < _EARLY_WINDOW:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "streams reset before their response (h2_early_resets)")
        early.append(now)

    def own_reset(self) -> None:
        """Count a stream that the peer made us reset (CVE-2025-8671)."""
        self._take(self._own_resets, "breaches on streams (h2_own_resets)")
        self.glitch()

    def settings(self) -> None:
        """Count a SETTINGS frame."""
        self._take(self._settings, "SETTINGS frames (h2_settings_per_minute)")

    def ping(self) -> None:
        """Count a PING. Content earns more: gRPC measures a round trip while data flows."""
        earned = self.payload // 16_384 + self.data_sent
        self._pings.give(earned - self._earned)
        self._earned = earned
        self._take(self._pings, "PING frames (h2_pings_per_minute)")

    def priority(self) -> None:
        """Count a PRIORITY frame."""
        self._priorities += 1
        if self._priorities > self._limits.h2_priorities_per_stream * (1 + self.streams):
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "PRIORITY frames (h2_priorities_per_stream)")

    def window_update(self) -> None:
        """Count a WINDOW_UPDATE."""
        self._window_updates += 1
        if self._window_updates > 5 + 2 * (self.streams + self._limits.h2_window_updates_per_data * self.data_sent):
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "WINDOW_UPDATE frames (h2_window_updates_per_data)")

    def unsent(self, frames: int) -> None:
        """Check how many answers to control frames the peer has not read."""
        if frames > self._limits.h2_max_unsent_control:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "answers not read (h2_max_unsent_control)")

    def glitch(self) -> None:
        """Count a small breach of the protocol that does no harm alone."""
        self._take(self._glitches, "breaches of the protocol (h2_max_glitches)")

    def _take(self, bucket: Bucket, what: str) -> None:
        if not bucket.take(self._clock()):
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, f"too many {what}")
