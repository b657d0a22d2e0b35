"""Golden signals of exchanges: how many, how well, how long, how many at once."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from linkerd_proxy.core.contain import code_of
from linkerd_proxy.core.message import HttpVersion, Request, Response
from linkerd_proxy.core.stack import Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import CODES, GrpcStatus
from linkerd_proxy.metrics.histogram import Histogram
from linkerd_proxy.metrics.registry import MAX_SERIES, Counter, Registry

__all__ = ["ExchangeMetrics", "classify"]

_PROTOCOLS: dict[HttpVersion, str] = {"1.0": "http/1", "1.1": "http/1", "2": "http/2", "3": "http/3"}

# The statuses that tell of a fault of the server or of the way to it, not of the caller's wish. (Linkerd counts the
# same ones: linkerd2-proxy, linkerd/proxy/client-policy/src/grpc.rs)
_GRPC_FAILURES = frozenset(
    str(status.value)
    for status in (
        GrpcStatus.UNKNOWN,
        GrpcStatus.DEADLINE_EXCEEDED,
        GrpcStatus.PERMISSION_DENIED,
        GrpcStatus.INTERNAL,
        GrpcStatus.UNAVAILABLE,
        GrpcStatus.DATA_LOSS,
    )
)
_GRPC_FINE = ("", "0")
_GRPC_STATUSES = frozenset(str(status.value) for status in GrpcStatus)


def classify(status: int, grpc_status: str = "", error: str = "") -> str:
    """Return ``success`` or ``failure``: of an error, a 5xx, or a gRPC status that blames the server."""
    return "failure" if error or status >= 500 or grpc_status in _GRPC_FAILURES else "success"


class _Series:
    """The handles of one protocol, bound once; those of each kind of answer when it first occurs."""

    __slots__ = ("_labels", "_registry", "in_flight", "outcomes", "particular", "requests")

    def __init__(self, registry: Registry, labels: dict[str, str]) -> None:
        self._registry = registry
        self._labels = labels
        self.requests = registry.counter("request_total", "Requests received", **labels)
        self.in_flight = registry.gauge("request_in_flight", "Requests not yet answered to the end", **labels)
        self.outcomes: dict[int, tuple[Counter, Histogram]] = {}
        self.particular: dict[tuple[int, str, str], tuple[Counter, Histogram]] = {}

    def bind(self, status: int, grpc_status: str = "", error: str = "") -> tuple[Counter, Histogram]:
        labels = self._labels | {"status_code": str(status) if status else ""}
        return (
            self._registry.counter(
                "response_total",
                "Responses that ended, by how",
                **labels,
                classification=classify(status, grpc_status, error),
                grpc_status=grpc_status,
                error=error,
            ),
            self._registry.histogram(
                "response_latency_ms", "Milliseconds from a request's head to its response's last byte", **labels
            ),
        )


class ExchangeMetrics(dict[HttpVersion, _Series]):
    """Counts exchanges in a registry, the series of each protocol bound when it first occurs."""

    __slots__ = ("_labels", "_registry")

    def __init__(self, registry: Registry, labels: Mapping[str, str]) -> None:
        super().__init__()
        self._registry = registry
        self._labels = labels

    def __missing__(self, version: HttpVersion) -> _Series:
        series = self[version] = _Series(self._registry, {**self._labels, "protocol": _PROTOCOLS[version]})
        return series

    def counting(self, inner: Service[Exchange]) -> Service[Exchange]:
        """Return ``inner`` with every exchange counted, in about 3 us each."""

        async def count(exchange: Exchange) -> None:
            request = exchange.request
            series = self[request.version]
            series.requests.value += 1
            series.in_flight.value += 1
            watch = _Watch(exchange, series)
            try:
                await inner(Exchange(request, watch.respond, exchange.connection))
                watch.unanswered("NA")
            except Exception as error:
                watch.unanswered(code_of(error))
                raise
            finally:
                series.in_flight.value -= 1
                watch.unanswered("CANCEL")

        return count


class _Watch:
    """One exchange from its head to the last byte of its answer."""

    __slots__ = ("counted", "request", "send", "series", "started")

    def __init__(self, exchange: Exchange, series: _Series) -> None:
        self.request = exchange.request
        self.send = exchange.respond
        self.series = series
        self.started = trio.current_time()
        self.counted = False

    async def respond(self, response: Response) -> None:
        """Send the response on, and count it when it has gone or failed."""
        if self.counted or not (response.status >= 200 or response.status == 101):
            await self.send(response)
            return
        self.counted = True
        error = "CANCEL"  # what stands if neither line below is reached
        try:
            await self.send(response)
            error = ""
        except Exception as failure:
            error = code_of(failure)
            raise
        finally:
            self._count(response, error)

    def _count(self, response: Response, error: str) -> None:
        status = response.status
        series = self.series
        request = self.request
        if error or status >= 400 or request.version == "2" or request.wants_tunnel:
            self._count_particular(response, error)
            return
        outcome = series.outcomes.get(status)
        if outcome is None:
            outcome = series.outcomes[status] = series.bind(status)
        outcome[0].value += 1
        outcome[1].record((trio.current_time() - self.started) * 1000)

    def _count_particular(self, response: Response, error: str) -> None:
        grpc_status = _grpc_status(response) if self.request.is_grpc else ""
        if not error and (response.status >= 400 or grpc_status not in _GRPC_FINE):
            error = _error_in(response)
        key = (response.status, grpc_status, error)
        outcome = self.series.particular.get(key)
        if outcome is None:
            outcome = self.series.bind(*key)
            if len(self.series.particular) < MAX_SERIES:  # the upstream chooses two of the three
                self.series.particular[key] = outcome
        outcome[0].value += 1
        if not _is_tunnel(self.request, response):
            outcome[1].record((trio.current_time() - self.started) * 1000)

    def unanswered(self, error: str) -> None:
        """Count an exchange that ends without an answer, unless it was counted."""
        if not self.counted:
            self.counted = True
            self.series.bind(0, error=error)[0].value += 1


def _is_tunnel(request: Request, response: Response) -> bool:
    return response.status == 101 or (request.method == "CONNECT" and response.status < 300)


def _grpc_status(response: Response) -> str:
    """Return the status from the trailers, or from the head of an answer without a body."""
    trailers = response.body.trailers
    value = (trailers and trailers.get("grpc-status")) or response.headers.get("grpc-status") or ""
    # The upstream chooses it, so nothing but a status that exists becomes a label.
    return value if value in _GRPC_STATUSES else str(GrpcStatus.UNKNOWN.value)


def _error_in(response: Response) -> str:
    """Return the failure code of an answer that a Rescue inside made."""
    code = (response.headers.get("l5d-proxy-error") or "").partition(" ")[0]
    return code if code in CODES else ""
