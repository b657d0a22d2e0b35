"""For tests of proxies and of layers, ours and yours: memory, scripts, faults, and a kit that checks any layer."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linkerd_proxy.testing.calling import Answer as Answer
    from linkerd_proxy.testing.calling import call as call
    from linkerd_proxy.testing.memory import MemoryConnect as MemoryConnect
    from linkerd_proxy.testing.memory import MemoryListener as MemoryListener
    from linkerd_proxy.testing.memory import memory_connection as memory_connection
    from linkerd_proxy.testing.script import EOF as EOF
    from linkerd_proxy.testing.script import RESET as RESET
    from linkerd_proxy.testing.script import Script as Script
    from linkerd_proxy.testing.script import ScriptMismatch as ScriptMismatch

# pytest imports this package at its start, for the plugin; so it must cost next to nothing until it is used.
_HOMES = {
    "Answer": "calling",
    "EOF": "script",
    "MemoryConnect": "memory",
    "MemoryListener": "memory",
    "RESET": "script",
    "Script": "script",
    "ScriptMismatch": "script",
    "call": "calling",
    "memory_connection": "memory",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
