"""The layer that counts: exchanges, connections or dials, whichever flows through the place where it stands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, cast

from typing_extensions import TypeVar

from linkerd_proxy.core.classify import Classify, classify
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Connection, Dial, Exchange
from linkerd_proxy.metrics.exchanges import ExchangeMetrics
from linkerd_proxy.metrics.registry import check_labels, current_registry
from linkerd_proxy.metrics.transport import TransportMetrics

__all__ = ["Metrics"]

W = TypeVar("W", bound=Connection | Exchange | Dial, default=Exchange)

_NO_LABELS: Mapping[str, str] = MappingProxyType({})
OWN_LABELS = frozenset(
    {"classification", "client_id", "error", "grpc_status", "peer", "protocol", "server_id", "status_code", "tls"}
)
"""The names of the labels that this layer sets by itself."""


@dataclass(frozen=True, slots=True, repr=False)
class Metrics(Layer[W, W], Generic[W]):
    """Counts what passes: golden signals of exchanges, connections and bytes of transport, in Linkerd's names.

    ``Metrics()`` stands among layers of HTTP, ``Metrics[Connection]()`` among those of TCP, ``Metrics[Dial]()`` before
    ``Connect``. A response is counted when its last byte has left, so one whose body failed is a failure, and every
    failure carries its code (``linkerd-proxy explain CODE``). A client that went away counts as ``CANCEL``.

    ==============================  ===============================================================
    exchanges                       ``request_total``, ``request_in_flight``, ``response_total``,
                                    ``response_latency_ms`` (from the request's head to the
                                    response's last byte; tunnels are left out)
    connections, ``peer="src"``;    ``tcp_open_total``, ``tcp_open_connections``, ``tcp_close_total``,
    dials, ``peer="dst"``           ``tcp_connection_duration_ms``, ``tcp_read_bytes_total``,
                                    ``tcp_write_bytes_total``
    dials                           ``tcp_connect_failure_total``
    ==============================  ===============================================================

    Args:
        labels: Labels of your own, for telling several of these layers apart. Never take their values from a peer.
        classify: Judges answers, for the label ``classification``.

    Put it outside ``Rescue`` to count the answers as the client sees them, inside it to count the upstream's.
    Cancellation counts the work as ``CANCEL`` and passes. Source: linkerd2-proxy, linkerd/app/core/src/metrics.rs.
    """

    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS, hash=False)
    classify: Classify = classify

    def __post_init__(self) -> None:
        check_labels(self.labels, OWN_LABELS)

    @asynccontextmanager
    async def open(self, inner: Service[W]) -> AsyncIterator[Service[W]]:
        """Bind the series of this run's registry, and count until closed."""
        registry = current_registry()
        exchanges = ExchangeMetrics(registry, self.labels, self.classify)
        count_exchange = exchanges.counting(cast("Service[Exchange]", inner))
        transport = TransportMetrics(registry, self.labels)
        count_connection = transport.counting_connections(cast("Service[Connection]", inner))
        count_dial = transport.counting_dials(cast("Service[Dial]", inner))

        def service(work: W) -> Awaitable[None]:
            # One plain call, not one more coroutine: what kind of work flows here is known only when it comes.
            if isinstance(work, Exchange):
                return count_exchange(work)
            if isinstance(work, Connection):
                return count_connection(work)
            return count_dial(work)

        def collect() -> None:
            transport.collect()
            exchanges.fold()

        with registry.collecting(collect):
            try:
                yield service
            finally:
                exchanges.fold()

    def __repr__(self) -> str:
        shown = [str(dict(self.labels))] if self.labels else []
        if self.classify is not classify:
            shown.append(f"classify={self.classify!r}")
        return f"Metrics({', '.join(shown)})"
