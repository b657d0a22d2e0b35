"""Fixtures for tests of proxies; pytest loads them by their entry point when ``linkerd-proxy`` is installed.

They work in tests that pytest-trio runs and in those that anyio's plugin runs on Trio, since each opens what it needs
in the test's own task::

    async def test_requests_arrive(proxied, origin):
        async with origin() as server, proxied(Http() | Client() | Connect(server.address)) as address:
            ...  # speak HTTP to address, a port of loopback

    async def test_resets_are_told(origin, faults):
        async with origin() as server:
            stack = Client() | faults(reset_after=100) | Connect(server.address)
            with pytest.raises(UpstreamReset):
                async with call(stack, Request()) as response:
                    await response.body.read()

============  =======================================================================================================
``proxied``   ``async with proxied(stack) as address:`` serves a stack on a port of loopback
              (:func:`linkerd_proxy.testing.serving`)
``origin``    ``async with origin(answer) as server:`` runs an HTTP server (:func:`linkerd_proxy.testing.http_origin`)
``authority`` a certificate authority, one a session (:class:`linkerd_proxy.testing.Authority`; needs ``trustme``)
``faults``    the layer that breaks upstream connections (:class:`linkerd_proxy.testing.Faults`)
============  =======================================================================================================

Nothing but pytest is imported before a fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from linkerd_proxy.testing.authority import Authority
    from linkerd_proxy.testing.faults import Faults

__all__ = ["authority", "faults", "origin", "proxied"]


@pytest.fixture
def proxied() -> Callable[..., object]:
    """Return what serves a stack on a port of loopback, for a block."""
    from linkerd_proxy.testing.origin import serving

    return serving


@pytest.fixture
def origin() -> Callable[..., object]:
    """Return what runs an HTTP server on a port of loopback, for a block."""
    from linkerd_proxy.testing.origin import http_origin

    return http_origin


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Return a certificate authority that only this session trusts."""
    from linkerd_proxy.testing.authority import Authority

    return Authority()


@pytest.fixture
def faults() -> type[Faults]:
    """Return the layer ``Faults``."""
    from linkerd_proxy.testing.faults import Faults

    return Faults
