"""Which layer each live service belongs to: for whoever asks where a piece of work is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

import trio

__all__ = ["layers_by_code", "living"]

_Services = dict[object, tuple[Callable[..., Any], object]]
_services: trio.lowlevel.RunVar[_Services] = trio.lowlevel.RunVar("linkerd_proxy.services")


@contextmanager
def living(service: Callable[..., Any], layer: object) -> Iterator[None]:
    """Remember inside the block that the service is the layer's, which its code mostly does not tell by itself."""
    try:
        services = _services.get()
    except LookupError:
        services = {}
        _services.set(services)
    key = object()  # a layer may hand its inner service on as it is
    services[key] = (service, layer)
    try:
        yield
    finally:
        del services[key]


def layers_by_code() -> Callable[[FrameType], object | None]:
    """Return what finds the live layer that a frame runs for, or None if it is no layer's service."""
    services = list(_services.get({}).values())
    known = {id(service) for service, _ in services}
    found: dict[CodeType, list[tuple[FunctionType, object, object]]] = {}
    for service, layer in services:
        for function in _functions(service, known):
            owner = function.__self__ if isinstance(function, MethodType) else None
            plain = function.__func__ if isinstance(function, MethodType) else function
            if isinstance(plain, FunctionType):
                found.setdefault(plain.__code__, []).append((plain, owner, layer))

    def layer_of(frame: FrameType) -> object | None:
        candidates = found.get(frame.f_code)
        if candidates is None:
            return None
        values = frame.f_locals
        return next((layer for plain, owner, layer in candidates if _runs(plain, owner, values)), None)

    return layer_of


def _functions(service: Callable[..., Any], known: set[int]) -> Iterator[Callable[..., Any]]:
    """Yield a service and the functions that it calls by its closure, but for the services of other layers."""
    yield service
    for value in _cells(service).values() if isinstance(service, FunctionType) else ():
        if isinstance(value, (FunctionType, MethodType)) and id(value) not in known:
            yield value


def _runs(function: FunctionType, owner: object, values: dict[str, Any]) -> bool:
    """Whether a frame with these values runs this very function, and not another one with the same code."""
    if owner is not None and values.get("self") is not owner:
        return False
    return all(values.get(name) is value for name, value in _cells(function).items())


def _cells(function: FunctionType) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a name that has no value yet
            found[name] = cell.cell_contents
    return found
