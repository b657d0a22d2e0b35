"""Golden signals of exchanges: how many, how well, how long, how many at once."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import trio

from linkerd_proxy.core.classify import Classify, classify, grpc_status_of
from linkerd_proxy.core.contain import code_of
from linkerd_proxy.core.message import HttpVersion, Request, Response
from linkerd_proxy.core.notes import current_notes
from linkerd_proxy.core.stack import Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import CODES, NotAnswered
from linkerd_proxy.metrics.histogram import Exemplar, Histogram
from linkerd_proxy.metrics.registry import MAX_SERIES, Counter, Gauge, Registry
from linkerd_proxy.metrics.transport import tls_labels

__all__ = ["ExchangeMetrics"]

_PROTOCOLS: dict[HttpVersion, str] = {"1.0": "http/1", "1.1": "http/1", "2": "http/2", "3": "http/3"}

_CANCEL = "CANCEL"  # Linkerd's word for a client that went away
_GRPC_FINE = ("", "0")


class _Series:
    """The handles of one protocol, bound once; those of each kind of answer when it first occurs."""

    __slots__ = ("_classify", "_labels", "_registry", "in_flight", "outcomes", "particular", "requests")

    def __init__(self, registry: Registry, labels: dict[str, str], classify: Classify) -> None:
        self._registry = registry
        self._classify = classify
        self._labels = labels
        self.requests: Counter = registry.counter("request_total", "Requests received", **labels)
        self.in_flight: Gauge = registry.gauge("request_in_flight", "Requests not yet answered to the end", **labels)
        self.outcomes: dict[int, tuple[Counter, Histogram]] = {}
        self.particular: dict[tuple[int, str, str], tuple[Counter, Histogram]] = {}

    def bind(self, status: int, grpc_status: str = "", error: str = "") -> tuple[Counter, Histogram]:
        labels = self._labels | {"status_code": str(status) if status else ""}
        return (
            self._registry.counter(
                "response_total",
                "Responses that ended, by how",
                **labels,
                classification=self._classify(status, grpc_status, error),
                grpc_status=grpc_status,
                error=error,
            ),
            self._registry.histogram(
                "response_latency_ms", "Milliseconds from a request's head to its response's last byte", **labels
            ),
        )

    def count(self, request: Request, response: Response, error: str, started: float) -> None:
        """Count an answer that has gone, or failed with ``error``."""
        status = response.status
        if error or status >= 400 or status == 101 or request.version == "2" or request.method == "CONNECT":
            self._count_particular(request, response, error, started)
            return
        outcome = self.outcomes.get(status)
        if outcome is None:
            outcome = self.outcomes[status] = self.bind(status)
        outcome[0].value += 1
        _record(outcome[1], started)

    def _count_particular(self, request: Request, response: Response, error: str, started: float) -> None:
        grpc_status = grpc_status_of(response) if request.is_grpc else ""
        if not error and (response.status >= 400 or grpc_status not in _GRPC_FINE):
            error = _error_in(response)
        key = (response.status, grpc_status, error)
        outcome = self.particular.get(key)
        if outcome is None:
            outcome = self.bind(*key)
            if len(self.particular) < MAX_SERIES:  # the upstream chooses two of the three
                self.particular[key] = outcome
        outcome[0].value += 1
        if not _is_tunnel(request, response):
            _record(outcome[1], started)


class ExchangeMetrics(dict[tuple[HttpVersion, str | None], _Series]):
    """Counts exchanges in a registry, the series of each protocol and client bound when it first occurs."""

    __slots__ = ("_classify", "_labels", "_registry")

    def __init__(self, registry: Registry, labels: Mapping[str, str], classify: Classify = classify) -> None:
        super().__init__()
        self._registry = registry
        self._classify = classify
        self._labels = labels

    def __missing__(self, key: tuple[HttpVersion, str | None]) -> _Series:
        version, identity = key
        labels = {**self._labels, "protocol": _PROTOCOLS[version], **tls_labels(identity)}
        series = _Series(self._registry, labels, self._classify)
        if len(self) < MAX_SERIES:  # as many identities as the authority certified
            self[key] = series
        return series

    def counting(self, inner: Service[Exchange]) -> Service[Exchange]:
        """Return ``inner`` with every exchange counted, in about 3 us each."""

        async def count(exchange: Exchange) -> None:
            request = exchange.request
            send = exchange.respond
            tls = exchange.connection.tls
            series = self[request.version, None if tls is None else tls.peer_identity or ""]
            series.requests.value += 1
            series.in_flight.value += 1
            started = trio.current_time()
            answered = False
            cut: Response | None = None
            error = _CANCEL  # what stands if nothing below says otherwise

            async def respond(response: Response) -> None:
                nonlocal answered, cut
                if answered or not (response.status >= 200 or response.is_final):
                    await send(response)
                    return
                answered = True
                cut = response
                await send(response)
                cut = None
                series.count(request, response, "", started)

            try:
                await inner(Exchange(request, respond, exchange.connection))
                error = NotAnswered.code
            except Exception as failure:
                error = code_of(failure)
                raise
            finally:
                series.in_flight.value -= 1
                if cut is not None:
                    series.count(request, cut, error, started)
                elif not answered:
                    series.bind(0, error=error)[0].value += 1

        return count


def _record(latency: Histogram, started: float) -> None:
    """Record a latency, and the trace that it is of if a ``Trace`` outside has it sampled."""
    milliseconds = (trio.current_time() - started) * 1000
    latency.record(milliseconds)
    notes = current_notes()
    if notes is not None and notes.trace_id:
        latency.exemplify(Exemplar(milliseconds, notes.trace_id, datetime.now(UTC).timestamp()))


def _is_tunnel(request: Request, response: Response) -> bool:
    return response.status == 101 or (request.method == "CONNECT" and response.status < 300)


def _error_in(response: Response) -> str:
    """Return the failure code of an answer that a Rescue inside made."""
    code = (response.headers.get("l5d-proxy-error") or "").partition(" ")[0]
    return code if code in CODES else ""
