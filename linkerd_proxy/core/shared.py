"""Resources that many layers use and one task owns: an identity that is renewed, a discovery that is watched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any, Generic, cast

import trio
from typing_extensions import TypeVar

from linkerd_proxy.core.background import open_background, unwrapped
from linkerd_proxy.core.describe import constructor_call

__all__ = ["Resource", "hosting", "shared"]

T = TypeVar("T")


class Resource(Generic[T]):
    """A value that can be opened into something live, which may run tasks of its own.

    As with a stack, one that is *named* in several layers is opened once and shared by all, and one that is *built*
    twice is two.
    """

    __slots__ = ()

    def open(self) -> AbstractAsyncContextManager[T]:
        """Return a context manager that yields the live thing. Layers use :func:`shared`."""
        raise NotImplementedError(f"{type(self).__name__} does not define open()")

    def __repr__(self) -> str:
        return constructor_call(self)


class _Host:
    """Where resources live: a nursery, and a context, that are outside everything that uses them.

    Whatever runs in the context that it is made in finds it.
    """

    __slots__ = ("closed", "context", "live", "nursery")

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.closed = False
        self.live: dict[int, _Live] = {}
        _host.set(self)
        self.context: Context = copy_context()

    def hold(self, live: _Live) -> None:
        """Start the task in which a resource lives."""
        self.nursery.start_soon(_hold, live, name=f"<holding {live.resource!r}>")


class _Live:
    """One open resource, its users counted."""

    __slots__ = ("failure", "released", "resource", "settled", "users", "value")

    def __init__(self, resource: Resource[Any]) -> None:
        self.resource = resource  # also keeps its id() from being given to another
        self.users = 0
        self.settled = trio.Event()
        self.released = trio.Event()
        self.value: object = None
        self.failure: Exception | None = None


_host: ContextVar[_Host | None] = ContextVar("linkerd_proxy.host", default=None)


def _current() -> _Host | None:
    # A task may outlive the stack in whose block it was started: its context still names the host.
    host = _host.get()
    return None if host is None or host.closed else host


@asynccontextmanager
async def hosting() -> AsyncIterator[None]:
    """Let resources live until the end of the block, unless a block around this one already does."""
    if _current() is not None:
        yield
        return
    async with open_background() as nursery:
        host = _Host(nursery)
        try:
            yield
        finally:
            host.closed = True


@asynccontextmanager
async def shared(resource: Resource[T]) -> AsyncIterator[T]:
    """Yield a resource's live thing, opened by the first of its users and closed after the last.

    It lives in a task of the outermost opened stack, so that a layer which is opened late (for a balancer's endpoint)
    shares it with those opened before, and may be closed in any order. Outside of any stack it belongs to the caller.

    Raises what opening it raised, to each of those who waited for that; trio.ClosedResourceError if the outermost stack
    was closed meanwhile.
    """
    host = _current()
    if host is None:
        async with resource.open() as value:
            yield value
        return
    live = host.live.get(id(resource))
    if live is None:
        live = host.live[id(resource)] = _Live(resource)
        # Not in the context of whoever came first: which way one client's work came is nothing to the others.
        host.context.run(host.hold, live)
    live.users += 1
    try:
        await live.settled.wait()
        if live.failure is not None:
            raise live.failure
        yield cast("T", live.value)
    finally:
        live.users -= 1
        if not live.users:
            live.released.set()
            if host.live.get(id(resource)) is live:
                del host.live[id(resource)]


async def _hold(live: _Live) -> None:
    try:
        async with live.resource.open() as live.value:
            live.settled.set()
            await live.released.wait()
    except Exception as error:
        if live.settled.is_set():
            raise
        live.failure = unwrapped(error)
    finally:
        if not live.settled.is_set():
            if live.failure is None:  # cancelled: who waits may be in a task that outlives the host
                live.failure = trio.ClosedResourceError(f"the stack that {live.resource!r} belongs to was closed")
            live.settled.set()
