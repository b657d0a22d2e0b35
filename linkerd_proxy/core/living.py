"""Which layer each live service belongs to: for whoever asks where a piece of work is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
    """Return what finds the live layer that a frame runs for, or None if it is no layer's service.

    Finding costs the same however many there are: an endpoint has a stack of its own, and there may be thousands.
    """
    services = list(_services.get({}).values())
    known = {id(service) for service, _ in services}
    found: dict[tuple[CodeType, tuple[int, ...]], tuple[object, object]] = {}
    for service, layer in services:
        for function in _functions(service, known):
            known_as = (function, layer)  # the function too: as long as it is held, no id becomes another's
            if isinstance(function, MethodType) and isinstance(function.__func__, FunctionType):
                found.setdefault((function.__func__.__code__, (id(function.__self__),)), known_as)
            elif isinstance(function, FunctionType):
                code = function.__code__
                found.setdefault((code, _ids(_cells(function), code.co_freevars)), known_as)

    def layer_of(frame: FrameType) -> object | None:
        code, values = frame.f_code, frame.f_locals
        # A method of this very object, or else a function of this code with these very values around it.
        entry = found.get((code, _ids(values, ("self",)))) or found.get((code, _ids(values, code.co_freevars)))
        return None if entry is None else entry[1]

    return layer_of


def _ids(values: Mapping[str, object], names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(id(values.get(name)) for name in names)


def _functions(service: Callable[..., Any], known: set[int]) -> Iterator[Callable[..., Any]]:
    """Yield a service and the functions that it calls by its closure, but for the services of other layers."""
    yield service
    for value in _cells(service).values() if isinstance(service, FunctionType) else ():
        if isinstance(value, (FunctionType, MethodType)) and id(value) not in known:
            yield value


def _cells(function: FunctionType) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # a name that has no value yet
            found[name] = cell.cell_contents
    return found
