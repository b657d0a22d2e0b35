"""Moments and durations as protocol buffers have them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from linkerd_proxy.grpc.schema import Field, Message, int32, int64

__all__ = ["Duration", "Timestamp", "duration", "moment_of", "seconds_of", "timestamp"]


class Timestamp(Message, name="google.protobuf.Timestamp"):
    """A moment: seconds and nanoseconds since 1970 (UTC)."""

    seconds: Field[int] = int64(1)
    nanos: Field[int] = int32(2)


class Duration(Message, name="google.protobuf.Duration"):
    """A span of time; both parts have the same sign."""

    seconds: Field[int] = int64(1)
    nanos: Field[int] = int32(2)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp(moment: datetime) -> Timestamp:
    """Return an aware moment as a message, to the microsecond."""
    since = moment - _EPOCH
    return Timestamp(seconds=since // timedelta(seconds=1), nanos=since.microseconds * 1000)


def moment_of(message: Timestamp) -> datetime:
    """Return a message as a moment (UTC). Raises OverflowError for one that no calendar has."""
    return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)


def duration(seconds: float) -> Duration:
    """Return seconds as a message."""
    total = round(seconds * 1e9)
    whole = abs(total) // 1_000_000_000
    nanos = abs(total) % 1_000_000_000
    sign = -1 if total < 0 else 1
    return Duration(seconds=sign * whole, nanos=sign * nanos)


def seconds_of(message: Duration) -> float:
    """Return a message as seconds."""
    return message.seconds + message.nanos / 1e9
