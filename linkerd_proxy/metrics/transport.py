"""Transport metrics: connections opened, held and closed, and the bytes that they moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import trio

from linkerd_proxy.core.codes import CANCEL, code_of
from linkerd_proxy.core.stack import Service
from linkerd_proxy.core.work import Connection, Dial
from linkerd_proxy.metrics.registry import MAX_SERIES, Counter, Registry
from linkerd_proxy.metrics.tally import Tally, tallied

__all__ = ["TransportMetrics", "tls_labels"]


def tls_labels(identity: str | None, peer: str = "src") -> dict[str, str]:
    """Return Linkerd's labels for a peer with TLS, ``tls="true"`` and the identity that it proved; none without TLS.

    Args:
        identity: The name, empty for TLS without one, None without TLS.
        peer: ``src`` for clients, ``dst`` for upstreams.
    """
    if identity is None:
        return {}
    return {"tls": "true", "client_id" if peer == "src" else "server_id": identity}


class _Series:
    """The handles of one peer and protocol."""

    __slots__ = ("_closed", "_labels", "_registry", "duration", "open", "opened", "read", "written")

    def __init__(self, registry: Registry, labels: dict[str, str]) -> None:
        self._registry = registry
        self._labels = labels
        self._closed: dict[str, Counter] = {}
        self.opened = registry.counter("tcp_open_total", "Connections opened", **labels)
        self.open = registry.gauge("tcp_open_connections", "Connections open now", **labels)
        self.duration = registry.histogram(
            "tcp_connection_duration_ms", "Milliseconds that connections lived", **labels
        )
        self.read = registry.counter("tcp_read_bytes_total", "Bytes read from peers", **labels)
        self.written = registry.counter("tcp_write_bytes_total", "Bytes written to peers", **labels)

    def closed(self, error: str) -> Counter:
        counter = self._closed.get(error)
        if counter is None:
            counter = self._closed[error] = self._registry.counter(
                "tcp_close_total", "Connections closed, by failure code", **self._labels, error=error
            )
        return counter


class _Held:
    """One open connection, with the part of its bytes that was counted already."""

    __slots__ = ("read", "series", "started", "tally", "written")

    def __init__(self, series: _Series, tally: Tally) -> None:
        self.series = series
        self.tally = tally
        self.started = trio.current_time()
        self.read = tally.bytes_received
        self.written = tally.bytes_sent
        series.opened.value += 1
        series.open.value += 1

    def collect(self) -> None:
        read, written = self.tally.bytes_received, self.tally.bytes_sent
        self.series.read.value += read - self.read
        self.series.written.value += written - self.written
        self.read, self.written = read, written

    def close(self, error: str) -> None:
        self.collect()
        self.series.open.value -= 1
        self.series.closed(error).value += 1
        self.series.duration.record((trio.current_time() - self.started) * 1000)


class TransportMetrics:
    """Counts connections and dials in a registry.

    Bytes are counted by the streams themselves, and fetched when a connection ends or somebody reads the metrics: a
    relay that copies inside the kernel costs no more for being measured.
    """

    __slots__ = ("_held", "_labels", "_registry", "_series")

    def __init__(self, registry: Registry, labels: Mapping[str, str]) -> None:
        self._registry = registry
        self._labels = labels
        self._series: dict[tuple[str, str, str | None], _Series] = {}
        self._held: set[_Held] = set()

    def collect(self) -> None:
        """Bring the byte counters up to date with all open connections."""
        for held in self._held:
            held.collect()

    def counting_connections(self, inner: Service[Connection]) -> Service[Connection]:
        """Return ``inner`` with every connection counted."""

        async def count(connection: Connection) -> None:
            stream, tally = tallied(connection.stream)
            if stream is not connection.stream:
                connection = connection.with_stream(stream)
            identity = connection.tls.peer_identity or "" if connection.tls is not None else None
            held = _Held(self._of("src", connection.protocol, identity), tally)
            self._held.add(held)
            error = CANCEL
            try:
                await inner(connection)
                error = ""
            except Exception as failure:
                error = code_of(failure)
                raise
            finally:
                self._held.discard(held)
                held.close(error)

        return count

    def counting_dials(self, inner: Service[Dial]) -> Service[Dial]:
        """Return ``inner`` with every dial counted, and the connection that it gets."""

        async def count(dial: Dial) -> None:
            series = self._of("dst", dial.target.protocol, dial.target.identity)
            held: _Held | None = None

            async def use(stream: trio.abc.HalfCloseableStream) -> None:
                nonlocal held
                stream, tally = tallied(stream)
                held = _Held(series, tally)
                self._held.add(held)
                await dial.use(stream)

            error = CANCEL
            try:
                await inner(replace(dial, use=use))  # on whose behalf it is stays known
                error = ""
            except Exception as failure:
                error = code_of(failure)
                raise
            finally:
                if held is not None:
                    self._held.discard(held)
                    held.close(error)
                elif error:
                    self._failed(dial, error).value += 1

        return count

    def _of(self, peer: str, protocol: str | None, identity: str | None) -> _Series:
        key = (peer, protocol or "", identity)
        series = self._series.get(key)
        if series is None:
            labels = {**self._labels, "peer": peer, "protocol": protocol or "", **tls_labels(identity, peer)}
            series = _Series(self._registry, labels)
            if len(self._series) < MAX_SERIES:  # as many identities as the authority certified
                self._series[key] = series
        return series

    def _failed(self, dial: Dial, error: str) -> Counter:
        return self._registry.counter(
            "tcp_connect_failure_total",
            "Dials that got no connection, by failure code",
            **self._labels,
            protocol=dial.target.protocol or "",
            error=error,
        )
