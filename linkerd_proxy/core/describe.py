"""How layers, stacks and resources show themselves."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass

__all__ = ["constructor_call"]


def constructor_call(described: object) -> str:
    """Return the call that makes a dataclass, without what is as by default: what a layer says with ``repr=False``."""
    arguments: list[str] = []
    for field in fields(described) if is_dataclass(described) else ():
        value = getattr(described, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if default is MISSING and not field.kw_only:
            arguments.append(repr(value))
        elif value != default and field.repr:
            arguments.append(f"{field.name}={value!r}")
    return f"{type(described).__name__}({', '.join(arguments)})"
