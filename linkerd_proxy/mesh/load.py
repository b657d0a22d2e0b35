"""Find a stack in a user's file or module: ``my_mesh.py:proxy`` or ``package.module:proxy``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from linkerd_proxy.core.stack import Layer, Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["Argument", "load_stack"]

Argument = str | int | float | bool | None | list[str]
"""What a stack's factory may be called with from another process: plain data."""


def load_stack(spec: str, arguments: Mapping[str, Argument] | None = None) -> Stack[Connection]:
    """Return the stack that ``spec`` names.

    Args:
        spec: ``path/to/file.py:name`` or ``module:name``; the name is ``proxy`` if none is given. It names a stack, or
            a function that returns one. The current directory is searched for modules, as ``python -m`` does.
        arguments: For that function.

    Raises:
        InvalidConfiguration: one line that says what is missing or wrong, with the nearest name; also for whatever the
            user's own code raises, which is then the cause.
    """
    where, colon, name = spec.rpartition(":")
    if not colon:
        where, name = spec, "proxy"
    try:
        module = _file(Path(where)) if where.endswith(".py") else _module(where)
        found = _attribute(module, name, where)
        if not isinstance(found, Stack) and callable(found) and not isinstance(found, Layer):
            found = found(**(arguments or {}))
    except InvalidConfiguration:
        raise
    except Exception as error:  # of the user's own code: which may raise anything
        raise InvalidConfiguration(f"{where} failed: {_summary(error)}") from error
    if isinstance(found, Layer):
        raise InvalidConfiguration(f"{where}:{name} is a layer without an end: add | Connect('host:port')")
    if not isinstance(found, Stack):
        kind = type(found).__name__
        raise InvalidConfiguration(f"{where}:{name} is of type {kind}, not a stack: give it layers that end in a stack")
    return found


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InvalidConfiguration(f"there is no file {path}: give the path of a Python file, as in my_mesh.py:proxy")
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidConfiguration(f"{path} can't be imported as a module")
    module = importlib.util.module_from_spec(spec)
    # As for a script, what stands beside the file can be imported by it.
    sys.path.insert(0, str(path.parent.absolute()))
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = name and importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a parent that is missing or is no package
        found = None
    if not found:
        raise InvalidConfiguration(f"there is no module {name!r}: give a file or a module, as in my_mesh.py:proxy")
    return importlib.import_module(name)


def _summary(error: Exception) -> str:
    """Return the error and the innermost line that raised it, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}{where}".split())


def _attribute(module: ModuleType, name: str, where: str) -> object:
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, [item for item in dir(found) if not item.startswith("_")], n=1)
            stacks = [key for key, value in vars(module).items() if isinstance(value, Stack)]
            if near:
                hint = f"did you mean {near[0]}?"
            elif stacks:
                hint = f"it has the stacks {', '.join(stacks)}"
            else:
                hint = "assign a stack to that name there"
            raise InvalidConfiguration(f"{where} has no {part}: {hint}")
        found = getattr(found, part)
    return found
