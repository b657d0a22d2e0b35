"""Fixtures of the flow tests: origins in threads, the command in a process, both shared by a module's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flow import origins
from tests.flow.application import Application
from tests.flow.command import Proxy, proxy

HTTP1 = {"h11": ["--codec", "h11"], "httptools": ["--codec", "httptools"]}


@pytest.fixture(scope="module")
def application() -> Application:
    return Application()


@pytest.fixture(scope="module")
def http1_origin(application: Application) -> Iterator[int]:
    with origins.listening(origins.http1(application)) as port:
        yield port


@pytest.fixture(scope="module")
def http2_origin(application: Application) -> Iterator[int]:
    with origins.listening(origins.http2(application)) as port:
        yield port


@pytest.fixture(scope="module", params=list(HTTP1))
def http1(request: pytest.FixtureRequest, http1_origin: int) -> Iterator[Proxy]:
    """A proxy before an HTTP/1 origin, once with each codec."""
    with proxy("--to", f"127.0.0.1:{http1_origin}", *HTTP1[request.param]) as running:
        yield running


@pytest.fixture(scope="module")
def http2(http2_origin: int) -> Iterator[Proxy]:
    """A proxy before an HTTP/2 origin."""
    with proxy("--to", f"127.0.0.1:{http2_origin}") as running:
        yield running
