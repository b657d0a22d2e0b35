"""The layer that finds out what a connection speaks and sends it down the branch for that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

import trio

from linkerd_proxy.address import Address
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Connection
from linkerd_proxy.detect.race import Outcome, race
from linkerd_proxy.detect.sniff import MAX_BYTES, Sniffer
from linkerd_proxy.errors import DetectTimeout, InvalidConfiguration
from linkerd_proxy.io.rewind import Rewound
from linkerd_proxy.metrics.registry import Counter, current_registry

__all__ = ["OPAQUE_PORTS", "Detect"]

OPAQUE_PORTS = frozenset({25, 587, 3306, 4444, 5432, 6379, 9300, 11211})
"""Where servers speak first, or clients something that is never HTTP: Linkerd's default list."""

Fallback: TypeAlias = Literal["otherwise", "http", "close"]
Silence: TypeAlias = Literal["otherwise", "http", "close", "race"]
_THEN: dict[Silence, Literal["adopt", "race"]] = {"otherwise": "adopt", "race": "race"}
Result: TypeAlias = Literal[
    "http/1", "http/2", "tls", "not_http", "timeout", "partial", "server_first", "opaque_port", "eof", "error"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Detect(Stack[Connection]):
    """Looks at a connection's first bytes, puts them back, and hands it on to the branch for what it speaks.

    Bytes are taken while they can still become HTTP/1, HTTP/2 or a TLS ClientHello, and not one byte longer, so that
    nothing but silence ever waits. A client that closes before it said anything costs nothing and is no error.

    Servers that speak first are found by a race: after ``race`` seconds of silence ``otherwise`` is started with a
    stream that does not give out the client's bytes yet. If the server's first byte comes first, the connection stays
    there. If the client's does, that attempt is cancelled, which closes its connection to the server, and the client's
    bytes decide as usual. No byte is lost or sent twice.

    Args:
        http: Serves HTTP/1 and HTTP/2, with ``connection.protocol`` set; without one they go to ``otherwise``, with
            their protocol set too.
        tls: Serves connections that begin with a ClientHello, which is put back; without one they go to ``otherwise``.
        otherwise: Serves everything else, as ``opaque``.
        timeout: Seconds that the client has to show what it speaks, counted from the start and not from each byte (with
            ``on_timeout="race"`` from its first one).
        on_timeout: Where a connection goes whose client was silent until then: ``otherwise``; ``http``, with the
            protocol left open; ``close``, which fails it with :exc:`~linkerd_proxy.errors.DetectTimeout`; or ``race``,
            which goes on for as long as the server keeps its connection, so that nobody gets past ``http`` by waiting.
        on_partial: The first three of these for a client that sent bytes, but too few to tell. (Linkerd closes after
            half a ClientHello and goes on after half a request line; here it is one choice.)
        opaque_ports: Ports that are not looked at, matched against the original destination or else the local address.
        race: Seconds of silence before the race (own figure), or None never to race.

    A connection whose protocol is known already goes to its branch at once. Cancelled, it closes nothing: the stream
    is its owner's.
    """

    http: Stack[Connection] | None = None
    tls: Stack[Connection] | None = None
    otherwise: Stack[Connection]
    timeout: float = 10.0
    on_timeout: Silence = "otherwise"
    on_partial: Fallback = "otherwise"
    opaque_ports: frozenset[int] = field(default=OPAQUE_PORTS)
    race: float | None = 0.3

    def __post_init__(self) -> None:
        if self.http is None and self.tls is None:
            raise InvalidConfiguration("Detect has nothing to tell apart: give it http=..., tls=... or both")
        if self.timeout <= 0:
            raise InvalidConfiguration(f"Detect(timeout={self.timeout!r}): give more than 0 seconds")
        if self.race is not None and self.race < 0:
            raise InvalidConfiguration(f"Detect(race={self.race!r}): give 0 seconds or more, or None")
        for name, fallback, known in (
            ("on_timeout", self.on_timeout, get_args(Silence)),
            ("on_partial", self.on_partial, get_args(Fallback)),
        ):
            if fallback not in known:
                raise InvalidConfiguration(f"Detect({name}={fallback!r}): give one of {', '.join(map(repr, known))}")
            if fallback == "http" and self.http is None:
                raise InvalidConfiguration(f"Detect({name}='http') needs a branch for it: give http=...")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        """Open the branches and yield the live service."""
        async with AsyncExitStack() as exits:
            otherwise = await exits.enter_async_context(opened(self.otherwise))
            http = otherwise if self.http is None else await exits.enter_async_context(opened(self.http))
            tls = otherwise if self.tls is None else await exits.enter_async_context(opened(self.tls))
            yield _Detector(self, http, tls, otherwise).serve

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return the branches that there are."""
        named = (("tls", self.tls), ("http", self.http), ("otherwise", self.otherwise))
        return [(name, branch) for name, branch in named if branch is not None]

    def title(self) -> str:
        """Return the line without the branches, with what differs from the defaults."""
        options = (item for item in fields(self) if item.name not in {"http", "tls", "otherwise"})
        changed = (
            (item.name, getattr(self, item.name)) for item in options if getattr(self, item.name) != item.default
        )
        return f"Detect({', '.join(f'{name}={_shown(value)}' for name, value in changed)})"


def _shown(value: object) -> str:
    return f"{{{', '.join(map(str, sorted(value)))}}}" if isinstance(value, frozenset) else repr(value)


class _Detector:
    """One opened Detect."""

    __slots__ = ("_config", "_http", "_otherwise", "_patience", "_races", "_results", "_seconds", "_tls")

    def __init__(
        self,
        config: Detect,
        http: Service[Connection],
        tls: Service[Connection],
        otherwise: Service[Connection],
    ) -> None:
        registry = current_registry()
        self._config = config
        self._http, self._tls, self._otherwise = http, tls, otherwise
        soon = config.race is not None and config.race < config.timeout
        self._races = soon or config.on_timeout == "race"
        self._patience = config.race if config.race is not None and soon else config.timeout
        self._results: dict[Result, Counter] = {
            result: registry.counter("tcp_detect_results_total", "Connections by what they spoke", result=result)
            for result in get_args(Result)
        }
        self._seconds = registry.histogram("tcp_detect_duration_seconds", "Until it was known what a connection spoke")

    async def serve(self, connection: Connection) -> None:
        """Serve one connection: in the usual case with one receive, and no task."""
        if connection.protocol is not None:
            await (self._otherwise if connection.protocol == "opaque" else self._http)(connection)
            return
        if self._is_opaque_port(connection):
            self._results["opaque_port"].value += 1
            await self._otherwise(connection.with_stream(connection.stream, protocol="opaque"))
            return
        start = trio.current_time()
        heard: Outcome = "silent"
        try:
            with trio.CancelScope(deadline=start + self._patience):
                heard = await connection.stream.receive_some(MAX_BYTES)
        except trio.BrokenResourceError:
            heard = "broken"
        if isinstance(heard, str) and heard == "silent" and self._races:
            heard = await self._race(connection, start)
        sniffer = Sniffer()
        result = await self._result(connection, start, heard, sniffer)
        if result is None:
            return
        self._note(result, start)
        if result not in {"eof", "error"}:
            # From here and not from further in: each frame below a connection's work costs at each of its waits.
            service, found = self._branch(connection, result, sniffer)
            await service(found)

    def _is_opaque_port(self, connection: Connection) -> bool:
        address = connection.original_dst or connection.local
        return isinstance(address, Address) and address.port in self._config.opaque_ports

    async def _race(self, connection: Connection, start: float) -> Outcome:
        return await race(
            connection,
            self._otherwise,
            deadline=start + self._config.timeout,
            then=_THEN.get(self._config.on_timeout, "end"),
            settled=lambda result: self._note(result, start),
        )

    async def _result(self, connection: Connection, start: float, heard: Outcome, sniffer: Sniffer) -> Result | None:
        """Return what the connection speaks, or None if it has been served."""
        if isinstance(heard, str):
            if heard == "served":
                return None
            # A client that broke off is a downstream failure: there is nobody to tell.
            return "timeout" if heard == "silent" else "error"
        if not heard:
            return "eof"
        return sniffer.feed(heard) or await self._listen_on(connection.stream, start, sniffer)

    async def _listen_on(self, stream: trio.abc.ReceiveStream, start: float, sniffer: Sniffer) -> Result:
        """Take more bytes until they tell; the deadline is the same, unless that is over because the race went on."""
        if self._config.on_timeout == "race":
            start = trio.current_time()
        with trio.CancelScope(deadline=start + self._config.timeout):
            try:
                while data := await stream.receive_some(MAX_BYTES - len(sniffer.data)):
                    if verdict := sniffer.feed(data):
                        return verdict
            except trio.BrokenResourceError:
                return "error"
            return "not_http"  # ended where more was needed: otherwise gets these bytes, and the end after them
        return "partial"

    def _branch(
        self, connection: Connection, result: Result, sniffer: Sniffer
    ) -> tuple[Service[Connection], Connection]:
        """Return who serves the connection, and the connection with its bytes put back."""
        data = sniffer.data
        stream = Rewound(connection.stream, data, sniffer.hello) if data else connection.stream
        match result:
            case "http/1" | "http/2":
                return self._http, connection.with_stream(stream, protocol=result)
            case "tls" if self._config.tls is not None:
                return self._tls, connection.with_stream(stream)
            case "timeout" | "partial":
                return self._fallback(connection, stream, result, len(data))
            case _:
                return self._otherwise, connection.with_stream(stream, protocol="opaque")

    def _fallback(
        self, connection: Connection, stream: trio.abc.HalfCloseableStream, result: Result, received: int
    ) -> tuple[Service[Connection], Connection]:
        """Return who serves a connection whose time is up: what the policy for that outcome says."""
        fallback = self._config.on_timeout if result == "timeout" else self._config.on_partial
        if fallback in {"close", "race"}:  # the server has given up, too
            problem = f"the client sent {received} bytes, too few to tell what it speaks"
            raise DetectTimeout(problem, layer="Detect", waited=self._config.timeout)
        if fallback == "http":
            return self._http, connection.with_stream(stream)
        return self._otherwise, connection.with_stream(stream, protocol="opaque")

    def _note(self, result: Result, start: float) -> None:
        self._results[result].value += 1
        self._seconds.record(trio.current_time() - start)
