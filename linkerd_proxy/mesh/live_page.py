"""The admin endpoint's page, and the stream of frames that it and ``linkerd-proxy top`` draw."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files

import trio

from linkerd_proxy.core.message import Body, Response
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import Overloaded
from linkerd_proxy.mesh.inside import THIS_RUN
from linkerd_proxy.mesh.live import Watch
from linkerd_proxy.mesh.observed import Observed
from linkerd_proxy.metrics.registry import Registry

__all__ = ["Live", "page"]

_INTERVAL = 1.0  # seconds between frames
_MAX_VIEWERS = 8  # own figure: each has all metrics added up once a second


class Live:
    """``/events``: a frame a second for each viewer, as server-sent events (HTML standard, section 9.2).

    The proxy counts as up since this was made.
    """

    __slots__ = ("_name", "_observed", "_registry", "_since", "_viewers")

    def __init__(
        self,
        name: str,
        registry: Callable[[], Awaitable[Registry]],
        observed: Callable[[], Awaitable[Observed]] = THIS_RUN.observed,
    ) -> None:
        self._name = name
        self._registry = registry
        self._observed = observed
        self._since = trio.current_time()
        self._viewers = 0

    async def stream(self, exchange: Exchange) -> None:
        """Answer with frames until the viewer goes.

        Raises:
            Overloaded: if too many look already.
        """
        if self._viewers >= _MAX_VIEWERS:
            raise Overloaded(f"{_MAX_VIEWERS} viewers look already", layer="admin", remedy="close one of them")
        self._viewers += 1
        try:
            headers = [("content-type", "text/event-stream"), ("cache-control", "no-store")]
            frames = _Frames(Watch(self._name, self._since), self._registry, self._observed)
            await exchange.respond(Response(200, headers, frames))
        finally:
            self._viewers -= 1


class _Frames(Body):
    """Frames without end, the first at once."""

    __slots__ = ("_due", "_observed", "_registry", "_watch")

    def __init__(
        self,
        watch: Watch,
        registry: Callable[[], Awaitable[Registry]],
        observed: Callable[[], Awaitable[Observed]],
    ) -> None:
        super().__init__()
        self._watch = watch
        self._registry = registry
        self._observed = observed
        self._due = trio.current_time()

    async def pull(self) -> bytes:
        """Wait until the next frame is due, and return it."""
        await trio.sleep_until(self._due)
        frame = self._watch.frame(await self._registry(), await self._observed()).as_json()
        self._due = trio.current_time() + _INTERVAL
        return b"data: " + json.dumps(frame, separators=(",", ":")).encode() + b"\n\n"


@cache
def _html() -> tuple[bytes, str]:
    text = files("linkerd_proxy.mesh").joinpath("live.html").read_text("utf-8")
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    # Its own script and style, its own stream, and nothing from anywhere else.
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text.encode(), policy


def page() -> Response:
    """Return the page."""
    text, policy = _html()
    headers = [
        ("content-type", "text/html; charset=utf-8"),
        ("content-security-policy", policy),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ]
    return Response(200, headers, text)
