"""A leaf of a stack made of a plain function."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import Service, Stack
from linkerd_proxy.core.work import Exchange

__all__ = ["Handler", "handler"]


@dataclass(frozen=True, slots=True, repr=False)
class Handler(Stack[Exchange]):
    """Answers each request with what a function returns. Made by :func:`handler`."""

    function: Callable[[Request], Awaitable[Response]]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Exchange]]:
        """Yield the live service."""
        function = self.function

        async def service(exchange: Exchange) -> None:
            await exchange.respond(await function(exchange.request))

        yield service

    def __repr__(self) -> str:
        return f"handler({getattr(self.function, '__name__', repr(self.function))})"


def handler(function: Callable[[Request], Awaitable[Response]]) -> Handler:
    """Make a stack of a function that takes a request and returns its response; also a decorator.

    The function may raise a :exc:`~linkerd_proxy.errors.ProxyError`, which ``Rescue`` turns into an answer. It is
    cancelled when the client no longer wants one. The body of the response is pulled after the function has returned.
    """
    return Handler(function)
