"""For tests of proxies and of layers, ours and yours: memory, scripts, faults, and a kit that checks any layer."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linkerd_proxy.testing.authority import Authority as Authority
    from linkerd_proxy.testing.authority import Svid as Svid
    from linkerd_proxy.testing.calling import Answer as Answer
    from linkerd_proxy.testing.calling import call as call
    from linkerd_proxy.testing.conformance import LayerViolations as LayerViolations
    from linkerd_proxy.testing.conformance import check_layer as check_layer
    from linkerd_proxy.testing.faults import Faults as Faults
    from linkerd_proxy.testing.faults import FaultyStream as FaultyStream
    from linkerd_proxy.testing.memory import MemoryConnect as MemoryConnect
    from linkerd_proxy.testing.memory import MemoryListener as MemoryListener
    from linkerd_proxy.testing.memory import memory_connection as memory_connection
    from linkerd_proxy.testing.origin import Origin as Origin
    from linkerd_proxy.testing.origin import echo as echo
    from linkerd_proxy.testing.origin import http_origin as http_origin
    from linkerd_proxy.testing.origin import serving as serving
    from linkerd_proxy.testing.origin import tcp_origin as tcp_origin
    from linkerd_proxy.testing.script import EOF as EOF
    from linkerd_proxy.testing.script import RESET as RESET
    from linkerd_proxy.testing.script import Script as Script
    from linkerd_proxy.testing.script import ScriptMismatch as ScriptMismatch

# pytest imports this package at its start, for the plugin; so it must cost next to nothing until it is used.
_HOMES = {
    "Answer": "calling",
    "Authority": "authority",
    "EOF": "script",
    "Faults": "faults",
    "FaultyStream": "faults",
    "LayerViolations": "conformance",
    "MemoryConnect": "memory",
    "MemoryListener": "memory",
    "Origin": "origin",
    "RESET": "script",
    "Script": "script",
    "ScriptMismatch": "script",
    "Svid": "authority",
    "call": "calling",
    "check_layer": "conformance",
    "echo": "origin",
    "http_origin": "origin",
    "memory_connection": "memory",
    "serving": "origin",
    "tcp_origin": "origin",
}

__all__ = [
    "EOF",
    "RESET",
    "Answer",
    "Authority",
    "Faults",
    "FaultyStream",
    "LayerViolations",
    "MemoryConnect",
    "MemoryListener",
    "Origin",
    "Script",
    "ScriptMismatch",
    "Svid",
    "call",
    "check_layer",
    "echo",
    "http_origin",
    "memory_connection",
    "serving",
    "tcp_origin",
]


if not TYPE_CHECKING:  # a checker that saw this would take every mistyped name for one of ours

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
