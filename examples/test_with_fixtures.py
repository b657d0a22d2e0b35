"""Test a proxy between real sockets, with the fixtures that come along. Usage: pytest test_with_fixtures.py"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest

from linkerd_proxy import Address, Client, Connect, Http, Request, UpstreamReset
from linkerd_proxy.testing import Faults, Origin, call

Starts = Callable[..., AbstractAsyncContextManager[Address]]
Runs = Callable[..., AbstractAsyncContextManager[Origin]]


async def test_requests_arrive(proxied: Starts, origin: Runs) -> None:
    async with (
        origin() as server,
        proxied(Http() | Client() | Connect(server.address)) as address,
        call(Client() | Connect(address), Request(path="/one", authority="example.test")) as response,
    ):
        assert await response.body.read() == b"GET /one"
    assert server.requests[0].authority == "example.test"


async def test_resets_are_told(origin: Runs, faults: type[Faults]) -> None:
    async with origin() as server:
        stack = Client() | faults(reset_after=10) | Connect(server.address)
        with pytest.raises(UpstreamReset):
            async with call(stack, Request(authority="example.test")) as response:
                await response.body.read()
