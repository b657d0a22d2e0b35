"""The admin endpoint: ``/live``, ``/ready``, ``/metrics`` and ``/config``, served by the package's own layers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.http.handler import handler
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.metrics.exposition import Exposition
from linkerd_proxy.metrics.negotiation import CONTENT_TYPES, accepts_gzip, chosen_format
from linkerd_proxy.metrics.registry import Registry, current_registry

__all__ = ["admin"]

_PLAIN = ("content-type", "text/plain; charset=utf-8")
_PATHS = {
    "/live": "the process runs",
    "/ready": "it takes traffic: 200, or 503 while it starts or drains",
    "/metrics": "Prometheus text; OpenMetrics, or protobuf with native histograms, by Accept; gzip",
    "/config": "the tree of layers",
}


async def _this_run() -> Registry:
    return current_registry()


def admin(
    drain: Drain,
    config: object = "",
    *,
    ready: Callable[[], bool] = lambda: True,
    registry: Callable[[], Awaitable[Registry]] = _this_run,
) -> Stack[Connection]:
    """Return a stack that answers probes and scrapes, under Linkerd's paths.

    Serve it with a drain of its own, so that it goes on answering while the proxy drains:
    ``serve(admin(drain, proxy), await open_listeners(":4191"))``.

    Args:
        drain: The proxy's; once started, ``/ready`` answers 503.
        config: What ``/config`` shows, as ``str()`` gives it: the proxy's stack.
        ready: Whether the proxy takes traffic.
        registry: Fetches the metrics to show; by default those of this Trio run.

    It knows no more than what it shows, changes nothing and reads no request bodies; yet whoever reaches it can read
    all of that, so listen where only friends are. Source: linkerd2-proxy, linkerd/app/admin/src/server.rs.
    """

    async def answer(request: Request) -> Response:
        path = request.path.partition("?")[0]
        if path not in _PATHS:
            return _text(404, _index())
        if request.method not in {"GET", "HEAD"}:
            return _text(405, "use GET or HEAD\n", [("allow", "GET, HEAD")])
        if path == "/metrics":
            return _metrics(request, await registry())
        if path == "/config":
            return _text(200, f"{config}\n")
        if path == "/ready" and (drain.draining or not ready()):
            return _text(503, "draining\n" if drain.draining else "starting\n")
        return _text(200, f"{path[1:]}\n")

    return Http() | Rescue() | handler(answer)


def _text(status: int, text: str, more: Sequence[tuple[str, str]] = ()) -> Response:
    return Response(status, [_PLAIN, *more], text.encode())


def _index() -> str:
    width = max(map(len, _PATHS))
    return "".join(f"{path:<{width}}  {text}\n" for path, text in _PATHS.items())


def _metrics(request: Request, registry: Registry) -> Response:
    kind = chosen_format(", ".join(request.headers.get_all("accept")))
    gzip = accepts_gzip(", ".join(request.headers.get_all("accept-encoding")))
    headers = [("content-type", CONTENT_TYPES[kind]), ("vary", "accept, accept-encoding")]
    if gzip:
        headers.append(("content-encoding", "gzip"))
    return Response(200, headers, Exposition(registry, kind, gzip=gzip))
