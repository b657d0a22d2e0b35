"""Services, layers and stacks: the one shape that everything in a proxy has.

A *service* serves one piece of work. A *layer* makes a service of another one. A *stack* is a value that can be
opened, as often as one likes, into a live service. ``layer | layer | stack`` composes them in the order in which
data flows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import FrozenInstanceError, dataclass
from typing import Any, Generic, TypeAlias, cast, overload

import trio
from typing_extensions import TypeVar

from linkerd_proxy.core.describe import constructor_call
from linkerd_proxy.core.living import living
from linkerd_proxy.core.ready import Ready, announce_ready, hearing_ready
from linkerd_proxy.core.shared import hosting
from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["A", "B", "C", "Layer", "Service", "Stack", "as_data", "opened"]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

Service: TypeAlias = Callable[[A], Awaitable[None]]
"""Serves one piece of work: returns when it is done, raises if it failed, is cancelled if nobody wants it."""


def _refuse_change(self: object, name: str, _value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


class _Frozen:
    """Makes ``Metrics[Connection]()`` work on Python 3.11, where a frozen dataclass with slots can't be a generic's.

    Its ``__setattr__`` raises TypeError there for a name that is no field (``__orig_class__``, which typing sets, and
    lets pass only AttributeError).
    """

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__setattr__" in cls.__dict__:
            type.__setattr__(cls, "__setattr__", _refuse_change)


class Layer(_Frozen, Generic[A, B]):
    """Makes a service of ``A`` out of a service of ``B``.

    Define :meth:`serve`, or override :meth:`open` to hold state or background tasks. A layer is a frozen, slotted
    dataclass: its configuration is its value and its ``repr`` (with ``repr=False``, this class's own, which leaves out
    what is as by default). Live state belongs to one opening, never to ``self``.
    """

    __slots__ = ()

    async def serve(self, work: A, inner: Service[B]) -> None:
        """Serve one piece of work, with ``inner`` to hand the rest on to."""
        raise NotImplementedError(f"{type(self).__name__} defines neither serve() nor open()")

    @asynccontextmanager
    async def open(self, inner: Service[B]) -> AsyncIterator[Service[A]]:
        """Yield the live service, once. Tasks start before that and are cancelled after it."""
        serve = self.serve

        def service(work: A) -> Awaitable[None]:
            return serve(work, inner)  # no coroutine of its own: a layer costs one

        yield service

    @overload
    def __or__(self, inner: Layer[B, C]) -> Layer[A, C]: ...
    @overload
    def __or__(self, inner: Stack[B]) -> Stack[A]: ...
    def __or__(self, inner: Layer[B, C] | Stack[B]) -> Layer[A, C] | Stack[A]:
        _refuse_class(inner)
        if isinstance(inner, Stack):
            return _Pipe(_layers(self), inner)
        if isinstance(inner, Layer):
            return _Chain((*_layers(self), *_layers(inner)))
        return NotImplemented

    def __repr__(self) -> str:
        return constructor_call(self)

    def __str__(self) -> str:
        return "\n".join(_draw(_layers(self)))


class Stack(_Frozen, Generic[A]):
    """Something that can be opened into a live service of ``A``.

    A leaf overrides :meth:`open`. One with branches opens them there with :func:`opened`, and names them in
    :meth:`branches`, so that ``print(stack)`` shows the tree.
    """

    __slots__ = ()

    def open(self) -> AbstractAsyncContextManager[Service[A]]:
        """Return a context manager that yields the live service. Use :func:`opened`, which also shares."""
        raise NotImplementedError(f"{type(self).__name__} does not define open()")

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return the stacks inside this one, each with the name under which it is drawn."""
        return ()

    def title(self) -> str:
        """Return this stack's own line in the drawing, without its branches."""
        return repr(self)

    def __repr__(self) -> str:
        return constructor_call(self)

    def __str__(self) -> str:
        return "\n".join(_draw((self,)))


@dataclass(frozen=True, slots=True, repr=False)
class _Chain(Layer[A, B]):
    """Several layers as one."""

    layers: tuple[Layer[Any, Any], ...]

    @asynccontextmanager
    async def open(self, inner: Service[B]) -> AsyncIterator[Service[A]]:
        async with AsyncExitStack() as exits:
            yield await _enter(exits, self.layers, inner)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.layers))


@dataclass(frozen=True, slots=True, repr=False)
class _Pipe(Stack[A]):
    """Layers before a stack."""

    layers: tuple[Layer[Any, Any], ...]
    end: Stack[Any]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[A]]:
        async with AsyncExitStack() as exits:
            inner = await exits.enter_async_context(opened(self.end))
            exits.enter_context(living(inner, self.end))
            yield await _enter(exits, self.layers, inner)

    def __repr__(self) -> str:
        return " | ".join(map(repr, (*self.layers, self.end)))


async def _enter(exits: AsyncExitStack, layers: Sequence[Layer[Any, Any]], inner: Service[Any]) -> Service[Any]:
    """Open the layers from the innermost out: what is opened last is closed first, which is the order of a drain."""
    for layer in reversed(layers):
        inner = await exits.enter_async_context(layer.open(inner))
        exits.enter_context(living(inner, layer))
    return inner


def _refuse_class(given: object) -> None:
    if isinstance(given, type) and issubclass(given, (Layer, Stack)):
        raise TypeError(f"{given.__name__} is a class, and not one of its layers: write {given.__name__}()")


def _layers(layer: Layer[Any, Any]) -> tuple[Layer[Any, Any], ...]:
    return layer.layers if isinstance(layer, _Chain) else (layer,)


# --- opening, with sharing ---------------------------------------------------------------------


class _Opening:
    """The stacks opened so far by one outermost :func:`opened`, by identity."""

    __slots__ = ("live", "sealed", "task")

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.live: dict[int, tuple[Stack[Any], Service[Any], list[Ready]]] = {}
        self.sealed = False
        self.task = task

    def seal(self) -> None:
        self.sealed = True
        self.live.clear()


_opening: ContextVar[_Opening | None] = ContextVar("linkerd_proxy.opening", default=None)


@asynccontextmanager
async def opened(stack: Stack[A]) -> AsyncIterator[Service[A]]:
    """Open a stack, and close it at the end of the block.

    A stack that is *named* in two branches of the tree is opened once and shared by both; one that is *built* twice is
    two. Sharing reaches as far as one outermost ``opened``: what a layer opens later, while it serves (an endpoint of a
    balancer), stands alone.

    Raises:
        InvalidConfiguration: if it is no stack, such as layers without an end.
    """
    if not isinstance(stack, Stack):
        raise InvalidConfiguration(_no_stack(stack))
    outer = _opening.get()
    task = trio.lowlevel.current_task()
    # A task that a layer started while it opens has inherited the opening, but what it opens doesn't nest in it.
    if outer is not None and not outer.sealed and outer.task is task:
        shared = outer.live.get(id(stack))
        if shared is not None:
            for ready in shared[2]:
                announce_ready(ready)
            # Its first opener closes it: openings nest, so that one closes after everybody who shares it.
            yield cast("Service[A]", shared[1])
            return
        async with AsyncExitStack() as exits:
            with hearing_ready() as heard:
                service = await exits.enter_async_context(stack.open())
            for ready in heard:
                announce_ready(ready)
            outer.live[id(stack)] = (stack, service, heard)
            try:
                yield service
            finally:
                outer.live.pop(id(stack), None)
        return
    opening = _Opening(task)
    _opening.set(opening)
    try:
        async with hosting(), stack.open() as service:
            opening.seal()
            yield service
    finally:
        opening.seal()


def _no_stack(given: object) -> str:
    if isinstance(given, Layer):
        return f"{given!r} is a layer without an end: add | Connect('host:port'), or another stack"
    return f"{given!r} is of type {type(given).__name__}, and no stack: give layers that end in a stack"


# --- drawing -----------------------------------------------------------------------------------


def _draw(nodes: Sequence[Layer[Any, Any] | Stack[Any]]) -> list[str]:
    lines: list[str] = []
    for node in nodes:
        if isinstance(node, _Pipe):
            lines += _draw((*node.layers, node.end))
        elif isinstance(node, Stack):
            lines.append(node.title())
            branches = node.branches()
            for index, (name, branch) in enumerate(branches):
                last = index == len(branches) - 1
                head, *rest = _draw((branch,))
                lines.append(f"{'└' if last else '├'}─ {name}: {head}")
                lines += [f"{' ' if last else '│'}    {line}" for line in rest]
        else:
            lines.append(repr(node))
    return lines


def as_data(stack: Stack[Any]) -> list[dict[str, Any]]:
    """Return the drawing as plain data: each layer in order, the last with its branches."""
    nodes = (*stack.layers, stack.end) if isinstance(stack, _Pipe) else (stack,)
    found: list[dict[str, Any]] = []
    for node in nodes:
        if isinstance(node, _Pipe):
            found += as_data(node)
        elif isinstance(node, Stack):
            branches = {name: as_data(branch) for name, branch in node.branches()}
            found.append({"stack": node.title()} | ({"branches": branches} if branches else {}))
        else:
            found.append({"layer": repr(node)})
    return found
