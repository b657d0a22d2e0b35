"""The admin endpoint: probes, metrics, configuration, and looks into the running proxy, by our own layers."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import trio

from linkerd_proxy.address import Address
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.message import Response
from linkerd_proxy.core.serve import Listener, serve
from linkerd_proxy.core.stack import Service, Stack, as_data
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.mesh.environment import shown_environment
from linkerd_proxy.mesh.inside import THIS_RUN, Inside
from linkerd_proxy.mesh.live_page import Live
from linkerd_proxy.mesh.live_page import page as live_page
from linkerd_proxy.mesh.log_level import shown_log_level
from linkerd_proxy.mesh.log_stream import stream_log
from linkerd_proxy.mesh.tap_stream import stream_tap
from linkerd_proxy.metrics.bounds import Bounds
from linkerd_proxy.metrics.exposition import Exposition
from linkerd_proxy.metrics.negotiation import CONTENT_TYPES, accepts_gzip, chosen_format
from linkerd_proxy.metrics.registry import Registry

__all__ = ["admin", "serve_admin"]

_TEXT = ("content-type", "text/plain; charset=utf-8")
_JSON = ("content-type", "application/json")
_READ = ("GET", "HEAD")
_MAX_LOOKING = 64  # connections; own figure: scrapers, probes and a few people
_LONGEST_LEVEL = 1024  # bytes of a PUT to /proxy-log-level

_Answer: TypeAlias = Callable[[Exchange], Awaitable[Response | None]]
"""Returns the response, or None if it has answered the exchange itself."""


@dataclass(frozen=True, slots=True)
class _Page:
    """One path: what it is for, how it may be asked, whether only by this host, and what answers."""

    text: str
    methods: tuple[str, ...]
    answer: _Answer
    private: bool = False


def admin(
    drain: Drain,
    config: object = "",
    *,
    ready: Callable[[], bool] = lambda: True,
    registry: Callable[[], Awaitable[Registry]] | None = None,
    bounds: Bounds = Bounds(),  # noqa: B008  # frozen
    shutdown: bool = False,
    inside: Inside = THIS_RUN,
    name: str = "proxy",
) -> Stack[Connection]:
    """Return a stack that answers probes, scrapes and questions, under Linkerd's paths where Linkerd has them.

    Serve it with a drain of its own, so that it goes on answering while the proxy drains:
    ``serve(admin(drain, proxy), await open_listeners(":4191"))``.

    Args:
        drain: The proxy's; once started, ``/ready`` answers 503.
        config: What ``/config`` shows: the proxy's stack.
        ready: Whether the proxy takes traffic.
        registry: Fetches the metrics to show; by default those of what it looks into.
        bounds: The classic buckets of histograms.
        shutdown: Whether ``POST /shutdown`` from this host starts the drain.
        inside: What it looks into: this Trio run, or the :class:`~linkerd_proxy.mesh.workers.Workers` that have the
            traffic.
        name: How the live view calls this proxy: its identity, where it has one.

    Whoever reaches it can read all that, so listen where only friends are. What changes something, or shows the inside,
    is for this host alone: the loopback or a Unix socket. Source: linkerd2-proxy, linkerd/app/admin/src/server.rs.
    """
    return Http() | Rescue() | _Admin(drain, config, ready, registry or inside.metrics, bounds, shutdown, inside, name)


async def serve_admin(nursery: trio.Nursery, stack: Stack[Connection], listeners: Sequence[Listener]) -> None:
    """Serve what looks into a proxy, :func:`admin` or a tap, in a task of ``nursery``; nothing without listeners.

    It has a drain of its own, which never starts: it answers until the proxy has ended.
    """
    if listeners:
        await nursery.start(
            lambda *, task_status: serve(stack, listeners, max_connections=_MAX_LOOKING, task_status=task_status)
        )


@dataclass(frozen=True, slots=True, repr=False)
class _Admin(Stack[Exchange]):
    """Sends each request to its page."""

    drain: Drain
    config: object
    ready: Callable[[], bool]
    registry: Callable[[], Awaitable[Registry]]
    bounds: Bounds
    shutdown: bool
    inside: Inside
    name: str

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Exchange]]:
        """Yield the live service."""
        pages = self._pages()

        async def service(exchange: Exchange) -> None:
            try:
                response = await _answer(pages, exchange)
            except InvalidConfiguration as error:
                response = _text(400, f"{error}\n")
            if response is not None:
                await exchange.respond(response)

        yield service

    def _pages(self) -> dict[str, _Page]:
        views = _Views(self)
        live = Live(self.name, self.registry, self.inside.observed)
        pages = {
            "/live": _Page("the process runs", _READ, views.live),
            "/ready": _Page("it takes traffic: 200, or 503 while it starts or drains", _READ, views.ready),
            "/metrics": _Page(
                "Prometheus text; OpenMetrics, or protobuf with native histograms, by Accept; gzip",
                _READ,
                views.metrics,
            ),
            "/config": _Page("the tree of layers, as text or as JSON by Accept", _READ, views.config),
            "/env.json": _Page("the proxy's environment variables; ?A&B for some", _READ, views.environment),
            "/proxy-log-level": _Page("the level of the log; PUT changes it", (*_READ, "PUT"), views.log_level),
            "/events": _Page("what goes on, once a second, as server-sent events", ("GET",), live.stream),
            "/logs.json": _Page(
                "the log as lines of JSON; ?warn,linkerd_proxy.failures=debug, or QUERY",
                ("GET", "QUERY"),
                views.log,
                True,
            ),
            "/tasks": _Page("the tasks that run, and the layers that they are in", _READ, views.tasks, private=True),
            "/tap": _Page("live requests, as lines of JSON", _READ, views.tap, private=True),
        }
        if self.shutdown:
            pages["/shutdown"] = _Page("POST starts the drain", ("POST",), views.shutdown, private=True)
        return pages

    def __repr__(self) -> str:
        return f"admin(name={self.name!r}, shutdown={self.shutdown}, inside={self.inside!r})"


async def _answer(pages: Mapping[str, _Page], exchange: Exchange) -> Response | None:
    path = exchange.request.path.partition("?")[0]
    page = pages.get(path)
    if page is None:
        if path == "/" and exchange.request.method in _READ and "text/html" in _field(exchange, "accept"):
            return live_page()
        return _text(404, _index(pages))
    if exchange.request.method not in page.methods:
        return _text(405, f"use {' or '.join(page.methods)}\n", [("allow", ", ".join(page.methods))])
    if page.private or exchange.request.method not in _READ:
        if not _is_from_here(exchange.connection):
            return _text(403, "this is for clients on the proxy's own host: ask by way of the loopback\n")
        if _is_from_a_web_page(exchange):
            return _text(403, "this is not for web pages: ask without an Origin field, and by address\n")
    return await page.answer(exchange)


def _index(pages: Mapping[str, _Page]) -> str:
    width = max(map(len, pages))
    return "".join(f"{path:<{width}}  {page.text}\n" for path, page in pages.items())


class _Views:
    """The answers of one admin endpoint."""

    def __init__(self, options: _Admin) -> None:
        self._drain = options.drain
        self._config = options.config
        self._ready = options.ready
        self._registry = options.registry
        self._bounds = options.bounds
        self._inside = options.inside

    async def live(self, _: Exchange) -> Response:
        return _text(200, "live\n")

    async def ready(self, _: Exchange) -> Response:
        if self._drain.draining or not self._ready():
            return _text(503, "draining\n" if self._drain.draining else "not ready\n")
        return _text(200, "ready\n")

    async def metrics(self, exchange: Exchange) -> Response:
        kind = chosen_format(_field(exchange, "accept"))
        gzip = accepts_gzip(_field(exchange, "accept-encoding"))
        headers = [("content-type", CONTENT_TYPES[kind]), ("vary", "accept, accept-encoding")]
        if gzip:
            headers.append(("content-encoding", "gzip"))
        return Response(200, headers, Exposition(await self._registry(), kind, gzip=gzip, bounds=self._bounds))

    async def config(self, exchange: Exchange) -> Response:
        if isinstance(self._config, Stack) and "application/json" in _field(exchange, "accept"):
            return _json(as_data(self._config))
        return _text(200, f"{self._config}\n")

    async def environment(self, exchange: Exchange) -> Response:
        accept = _field(exchange, "accept")
        if accept and not any(kind in accept for kind in ("application/json", "application/*", "*/*")):
            return _text(406, "this is JSON: accept application/json\n")
        return _json(shown_environment(exchange.request.path.partition("?")[2]))

    async def log_level(self, exchange: Exchange) -> Response:
        if exchange.request.method == "PUT":
            text = (await exchange.request.body.read(_LONGEST_LEVEL)).decode("utf-8", "replace")
            self._inside.apply_log_level(text.strip())
            return Response(204)
        return _text(200, f"{shown_log_level()}\n")

    async def tasks(self, _: Exchange) -> Response:
        return Response(200, [_TEXT], await self._inside.tasks())

    async def log(self, exchange: Exchange) -> None:
        await stream_log(exchange, self._inside.logged)

    async def tap(self, exchange: Exchange) -> None:
        await stream_tap(exchange, self._inside.tapped)

    async def shutdown(self, _: Exchange) -> Response:
        self._drain.start()
        return _text(200, "shutting down\n")


def _text(status: int, text: str, more: Sequence[tuple[str, str]] = ()) -> Response:
    return Response(status, [_TEXT, *more], text.encode())


def _json(value: object) -> Response:
    return Response(200, [_JSON], f"{json.dumps(value, indent=1)}\n".encode())


def _field(exchange: Exchange, name: str) -> str:
    return ", ".join(exchange.request.headers.get_all(name)).lower()


def _is_from_a_web_page(exchange: Exchange) -> bool:
    """Whether a browser asks in the name of some site, which can reach the loopback by a name of its own choice."""
    if not isinstance(exchange.connection.peer, Address):
        return False  # no browser reaches a Unix socket
    request = exchange.request
    if request.headers.get("origin") is not None or (request.headers.get("sec-fetch-site") or "none") != "none":
        return True
    host = re.sub(r":[0-9]*$", "", request.authority).strip("[]").lower()
    return not (host in {"", "localhost"} or Address(host, 0).is_ip)


def _is_from_here(connection: Connection) -> bool:
    peer = connection.peer
    return peer.is_loopback if isinstance(peer, Address) else True  # a Unix socket has no other hosts
