"""One piece of work at one endpoint, and what its end says about the endpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import trio

from linkerd_proxy.balance.breaker import Outcome
from linkerd_proxy.balance.hints import hint_of
from linkerd_proxy.balance.replica import Replica
from linkerd_proxy.core.attempt import current_attempt
from linkerd_proxy.core.classify import BROKEN, grpc_status_of
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.notes import current_notes
from linkerd_proxy.core.work import Connection, Dial, Exchange, Respond
from linkerd_proxy.errors import ConnectFailed

if TYPE_CHECKING:
    from linkerd_proxy.balance.health import Health

__all__ = ["DialFlight", "ExchangeFlight", "Flight", "WorkFlight"]

# What an endpoint is blamed for. Refusals of our own, and REFUSED_STREAM or GOAWAY, say nothing about its health.
_BLAMED: tuple[type[Exception], ...] = (ConnectFailed, *BROKEN)
# Linkerd penalises these: linkerd2-proxy, linkerd/load-biaser.
_PENALISED = frozenset({"2", "4", "8", "13", "14", "15"})
_EXHAUSTED = "8"


# Of two bases that have slots, as Flight and Exchange, nothing can be made: each kind of flight has them itself.
_NONE: tuple[str, ...] = ()
_SLOTS = ("generation", "health", "judged", "pending", "probe", "replica", "started")


class Flight:
    """One piece of work at one endpoint; it counts from :meth:`begin` on as pending there.

    Each kind of work has its kind of flight: that of an exchange is an exchange itself.
    """

    __slots__ = _NONE

    generation: int
    health: Health
    judged: bool
    """Whether the breaker has heard of it."""
    pending: bool
    probe: bool
    replica: Replica[Any]
    started: float

    blind = True
    """Whether nothing can be said before the end."""

    @property
    def untouched(self) -> bool:
        """Whether the work is as it was before, so that another endpoint may have it if this one wasn't reached."""
        return False

    def begin(self, health: Health, replica: Replica[Any], now: float) -> None:
        """Take its place at the endpoint."""
        self.health = health
        self.replica = replica
        self.started = now
        self.pending = True
        self.judged = False
        replica.pending += 1
        replica.active += 1
        replica.tally.active += 1
        replica.picked += 1
        self.probe = probe = replica.state == "probation"
        if probe:
            health.take(replica, blind=self.blind)
        self.generation = replica.generation

    def wrap(self, work: Any) -> Any:  # the kind of work is its caller's
        """Return the work for the endpoint, made to tell how it goes."""
        return work

    def arrived(self, now: float) -> None:
        """Note that the endpoint has answered: it took so long, and the work is no longer pending there."""
        if self.pending:
            self.pending = False
            replica = self.replica
            replica.pending -= 1
            replica.ewma.sample(now - self.started, now)

    def served(self) -> None:
        """Note that the work ended well."""
        if not self.judged:
            self.settle("success", trio.current_time())

    def failed(self, error: Exception) -> None:
        """Note that the work failed, which may be the endpoint's fault or not."""
        if isinstance(error, _BLAMED):
            now = trio.current_time()
            self.penalise(now, None)
            if not self.judged:
                self.settle("failure", now, unreachable=isinstance(error, ConnectFailed))
        elif self.probe:
            self.health.abandon(self)

    def cancelled(self, *, late: bool) -> None:
        """Note that nobody wants the work any more; if a deadline is why, that is an answer too."""
        now = trio.current_time()
        if self.pending:
            elapsed = now - self.started
            if elapsed > self.replica.ewma.read(now):
                self.replica.ewma.sample(elapsed, now)
            if late and not self.judged:
                self.settle("failure", now)
        if self.probe:
            self.health.abandon(self)

    def penalise(self, now: float, hint: float | None) -> None:
        """Make a failure count as slow, so that failing quickly attracts no work."""
        ewma = self.replica.ewma
        penalty = self.health.measure.penalty
        took = now - self.started if self.pending else 0.0
        self.leave()
        if hint is not None or (penalty and self.health.measure.peak):
            ewma.sample(max(penalty, hint or 0.0, ewma.read(now)), now)
        elif penalty:
            ewma.blend(max(penalty, took, ewma.read(now)), now)
        elif took:
            ewma.sample(took, now)

    def leave(self) -> None:
        """Note that it waits for no answer any more."""
        if self.pending:
            self.pending = False
            self.replica.pending -= 1

    def settle(self, outcome: Outcome, now: float, *, unreachable: bool = False) -> None:
        """Tell the breaker, once."""
        self.judged = True
        if outcome != "success":
            self.replica.failed += 1
        self.health.settle(self, outcome, now, unreachable=unreachable)

    def end(self) -> None:
        """Give back what the work had at the endpoint."""
        replica = self.replica
        if self.pending:
            self.pending = False
            replica.pending -= 1
        replica.active -= 1
        replica.tally.active -= 1
        if replica.state == "leaving" and not replica.active:
            replica.idle.set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.replica!r}>"


class WorkFlight(Flight):
    """Work of any other kind at one endpoint, of which nothing is known before its end."""

    __slots__ = _SLOTS

    def __init__(self, health: Health, replica: Replica[Any], now: float) -> None:
        self.begin(health, replica, now)


class ExchangeFlight(Flight, Exchange):
    """An exchange at one endpoint: judged by its answer's head, and a gRPC call by its end."""

    __slots__ = (*_SLOTS, "response", "send")

    request: Request
    connection: Connection
    judged: bool

    blind = False

    def __init__(self, health: Health, replica: Replica[Any], now: float, exchange: Exchange) -> None:
        self.begin(health, replica, now)
        attempt = current_attempt()
        if attempt is not None:
            address = replica.endpoint.address
            if address not in attempt.tried:
                attempt.tried += (address,)
        notes = current_notes()
        if notes is not None:
            notes.backend = str(replica.endpoint.address)
        self.request = exchange.request
        self.connection = exchange.connection
        self.send: Respond = exchange.respond
        self.response: Response | None = None

    @property
    def untouched(self) -> bool:
        """Whether nothing was answered."""
        return self.response is None

    def wrap(self, work: Exchange) -> Exchange:
        """Return the exchange with its answer watched."""
        return self

    def respond(self, response: Response) -> Awaitable[None]:
        """Look at an answer's head, and pass it on."""
        if self.response is None and (response.status >= 200 or response.status == 101):
            self.response = response
            now = self.health.clock()
            request = self.request
            if response.status >= 400 or (request.version == "2" and request.is_grpc) or self.health.judges_all:
                self.look(response, now)
            else:
                self.arrived(now)
                if self.probe:
                    self.settle("success", now)
        return self.send(response)

    def look(self, response: Response, now: float) -> None:
        """Judge an answer that is no plain success, as far as its head tells."""
        grpc_status = response.headers.get("grpc-status") if self.request.is_grpc else None
        if self.request.is_grpc and grpc_status is None and response.status < 400:
            self.arrived(now)
            if self.probe:  # its stream may go on for hours, and its end may still say otherwise
                self.health.pass_for_now(self)
            return
        outcome = self.judge(response, grpc_status or "", now)
        if outcome != "success" or self.probe:  # what began well may still break off
            self.settle(outcome, now)

    def served(self) -> None:
        """Note that the exchange ended; a gRPC call's trailers say how."""
        response = self.response
        if response is None:  # nobody answered: that is a layer's fault
            if self.probe:
                self.health.abandon(self)
        elif not self.judged:
            if self.request.version == "2" and self.request.is_grpc:
                now = trio.current_time()
                self.settle(self.judge(response, grpc_status_of(response), now), now)
                return
            accrual = self.replica.accrual
            if self.probe or (accrual is not None and accrual.cares):
                self.settle("success", self.started)
            else:
                self.judged = True  # what nearly every success comes to, for a fifth of the way

    def judge(self, response: Response, grpc_status: str, now: float) -> Outcome:
        """Judge an answer by its statuses, and measure it."""
        status = response.status
        verdict = self.health.classify(status, grpc_status, "")
        limited = status == 429 or grpc_status == _EXHAUSTED
        if (verdict == "failure" and status >= 500) or limited or grpc_status in _PENALISED:
            hint = None
            if status in {429, 503} or grpc_status:
                hint = hint_of(response)
            self.penalise(now, hint)
        else:
            self.arrived(now)
        return "limited" if limited else verdict


class DialFlight(WorkFlight):
    """A dial at one endpoint: its latency is that of connecting, its load is the connections in use."""

    __slots__ = ("connected", "use")

    blind = False

    def __init__(self, health: Health, replica: Replica[Any], now: float, dial: Dial) -> None:
        super().__init__(health, replica, now)
        self.use: Callable[[trio.abc.HalfCloseableStream], Awaitable[None]] = dial.use
        self.connected: bool = False

    @property
    def untouched(self) -> bool:
        """Whether there was no connection."""
        return not self.connected

    def wrap(self, work: Dial) -> Dial:
        """Return the dial with its connecting watched."""
        return Dial(work.target, self.watch, work.client, work.destination)

    def watch(self, stream: trio.abc.HalfCloseableStream) -> Awaitable[None]:
        """Note that the connection stands, and use it. It stays pending: a connection is load as long as it lives."""
        now = trio.current_time()
        self.connected = True
        self.replica.ewma.sample(now - self.started, now)
        self.settle("success", now)
        return self.use(stream)

    def failed(self, error: Exception) -> None:
        """Note that no connection was made; what becomes of one that stood is its user's affair."""
        if not self.connected:
            super().failed(error)

    def cancelled(self, *, late: bool) -> None:
        """Note that nobody wants the connection any more: that says something only before it stood."""
        if not self.connected:
            super().cancelled(late=late)
