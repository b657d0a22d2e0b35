"""Golden signals of exchanges: how many, how well, how long, how many at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from linkerd_proxy.core.classify import Classify, classify, grpc_status_of
from linkerd_proxy.core.clock import open_clock
from linkerd_proxy.core.codes import CANCEL, code_in, code_of
from linkerd_proxy.core.message import HttpVersion, Request, Response
from linkerd_proxy.core.notes import current_notes
from linkerd_proxy.core.stack import Service
from linkerd_proxy.core.work import Exchange, Respond
from linkerd_proxy.errors import NotAnswered
from linkerd_proxy.metrics.histogram import Exemplar, Histogram
from linkerd_proxy.metrics.registry import MAX_SERIES, Counter, Gauge, Registry
from linkerd_proxy.metrics.transport import tls_labels

__all__ = ["ExchangeMetrics"]

_PROTOCOLS: dict[HttpVersion, str] = {"1.0": "http/1", "1.1": "http/1", "2": "http/2", "3": "http/3"}

_FOLD = 256  # answers; own figure: folding them in takes a tenth of a millisecond

_GRPC_FINE = ("", "0")


class _Outcome:
    """Answers of one kind: a counter and a histogram, and what is not in them yet.

    Recording costs a list's ``append``, for on the way of a request every look at one more object is dear; one after
    the other, where all of it is at hand, values are counted for a fraction.
    """

    __slots__ = ("_counter", "_latency", "waiting")

    def __init__(self, counter: Counter, latency: Histogram) -> None:
        self._counter = counter
        self._latency = latency
        self.waiting: list[float] = []
        """Seconds that answers took which are not counted yet."""

    def add(self, seconds: float) -> None:
        """Count an answer, and the trace that it is of if a ``Trace`` outside has it sampled."""
        self.waiting.append(seconds)
        notes = current_notes()
        if notes is not None and notes.trace_id:
            self.fold()
            self._latency.exemplify(Exemplar(seconds * 1000, notes.trace_id, datetime.now(UTC).timestamp()))
        elif len(self.waiting) >= _FOLD:
            self.fold()

    def add_untimed(self) -> None:
        """Count an answer whose time tells nothing: a tunnel's, or none at all."""
        self._counter.value += 1

    def fold(self) -> None:
        """Bring counter and histogram up to date."""
        waiting, self.waiting = self.waiting, []
        self._counter.value += len(waiting)
        record = self._latency.record
        for seconds in waiting:
            record(seconds * 1000)


class _Series:
    """The handles of one protocol, bound once; those of each kind of answer when it first occurs."""

    __slots__ = ("_classify", "_labels", "_registry", "clock", "in_flight", "kept", "particular", "plain", "requests")

    def __init__(self, registry: Registry, labels: dict[str, str], classify: Classify) -> None:
        self._registry = registry
        self._classify = classify
        self._labels = labels
        self.clock: Callable[[], float] = open_clock()
        self.requests: Counter = registry.counter("request_total", "Requests received", **labels)
        self.in_flight: Gauge = registry.gauge("request_in_flight", "Requests not yet answered to the end", **labels)
        self.kept: bool = True
        """Whether somebody will call :meth:`fold`."""
        self.plain: dict[int, _Outcome] = {}
        """Answers that can mean nothing else: of HTTP/1, no tunnels, below 400."""
        self.particular: dict[tuple[int, str, str], _Outcome] = {}

    def bind(self, status: int, grpc_status: str = "", error: str = "") -> _Outcome:
        labels = self._labels | {"status_code": str(status) if status else ""}
        return _Outcome(
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
        outcome = self.plain.get(status)
        if outcome is None:
            outcome = self.plain[status] = self.bind(status)
        outcome.add(self.clock() - started)
        if not self.kept:
            outcome.fold()
            self.plain.clear()

    def fold(self) -> None:
        """Bring the registry up to date."""
        for outcome in (*self.plain.values(), *self.particular.values()):
            outcome.fold()

    def _count_particular(self, request: Request, response: Response, error: str, started: float) -> None:
        grpc_status = grpc_status_of(response) if request.is_grpc else ""
        if not error and (response.status >= 400 or grpc_status not in _GRPC_FINE):
            error = code_in(response)
        key = (response.status, grpc_status, error)
        outcome = self.particular.get(key)
        if outcome is None:
            outcome = self.bind(*key)
            if len(self.particular) < MAX_SERIES:  # the upstream chooses two of the three
                self.particular[key] = outcome
        if _is_tunnel(request, response):
            outcome.add_untimed()
        else:
            outcome.add(self.clock() - started)
        if not self.kept or key not in self.particular:
            outcome.fold()


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
        series.kept = len(self) < MAX_SERIES  # as many identities as the authority certified
        if series.kept:
            self[key] = series
        return series

    def fold(self) -> None:
        """Bring the registry up to date, for whoever reads it."""
        for series in self.values():
            series.fold()

    def counting(self, inner: Service[Exchange]) -> Service[Exchange]:
        """Return ``inner`` with every exchange counted."""

        async def count(exchange: Exchange) -> None:
            tls = exchange.connection.tls
            series = self[exchange.request.version, None if tls is None else tls.peer_identity or ""]
            counted = _Counted(exchange, series)
            error = CANCEL  # what stands if nothing below says otherwise
            try:
                await inner(counted)
                error = NotAnswered.code
            except Exception as failure:
                error = code_of(failure)
                raise
            finally:
                series.in_flight.value -= 1
                if counted.cut is not None:
                    series.count(counted.request, counted.cut, error, counted.started)
                elif not counted.answered:
                    series.bind(0, error=error).add_untimed()

        return count


class _Counted(Exchange):
    """An exchange that is counted from now on, and whose answer is when it has gone."""

    __slots__ = ("answered", "cut", "send", "series", "started")

    def __init__(self, exchange: Exchange, series: _Series) -> None:
        self.request = exchange.request
        self.connection = exchange.connection
        self.send: Respond = exchange.respond
        self.series: _Series = series
        self.answered: bool = False
        self.cut: Response | None = None
        """The answer that has begun and not ended."""
        series.requests.value += 1
        series.in_flight.value += 1
        self.started: float = series.clock()

    async def respond(self, response: Response) -> None:
        """Send the answer on, and count it if that worked."""
        status = response.status
        if self.answered or not (status >= 200 or response.is_final):
            await self.send(response)
            return
        self.answered = True
        self.cut = response
        await self.send(response)
        self.cut = None
        series = self.series
        outcome = series.plain.get(status)
        if outcome is None or self.request.method == "CONNECT":
            series.count(self.request, response, "", self.started)
        else:
            outcome.add(series.clock() - self.started)


def _is_tunnel(request: Request, response: Response) -> bool:
    return response.status == 101 or (request.method == "CONNECT" and response.status < 300)
