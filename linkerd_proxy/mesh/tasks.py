"""The live tree of Trio tasks, with the layers that each is in: for the question where a request is stuck."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeAlias

import trio

from linkerd_proxy.core.living import layers_by_code
from linkerd_proxy.core.stack import Layer, Stack

__all__ = ["task_tree"]

_DEPTH = 64  # frames of one task that are looked at; a coroutine that waits is no deeper
_LayerOf: TypeAlias = Callable[[FrameType], object | None]
_FRAMES = 4  # innermost lines that are shown of each task


def task_tree() -> Iterator[str]:
    """Yield the lines of the tree, one or more for each task: its name, the layers it is in, and where it waits.

    The tree changes between two lines only if whoever reads them lets other tasks run.
    """
    root = trio.lowlevel.current_root_task()
    if root is not None:
        yield from _task(root, "", layers_by_code())


def _task(task: trio.lowlevel.Task, indent: str, layer_of: _LayerOf) -> Iterator[str]:
    yield f"{indent}{task.name}"
    frames = list(_frames(task.coro))
    for layer in _layers(frames, layer_of):
        yield f"{indent}  in {layer}"
    if task is not trio.lowlevel.current_task():
        ours = [frame for frame in frames if not str(frame.f_globals.get("__name__", "")).startswith("trio.")]
        for frame in ours[-_FRAMES:]:
            yield f"{indent}  at {_place(frame)}"
    for nursery in list(task.child_nurseries):
        for child in sorted(nursery.child_tasks, key=lambda one: one.name):
            yield from _task(child, indent + "    ", layer_of)


def _frames(coroutine: Any) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine, the outermost first: coroutines, generators, async generators."""
    for _ in range(_DEPTH):
        frame = _first(coroutine, "cr_frame", "gi_frame", "ag_frame")
        if frame is None:
            return
        yield frame
        coroutine = _first(coroutine, "cr_await", "gi_yieldfrom", "ag_await")


def _first(owner: object, *names: str) -> Any:
    return next((value for name in names if (value := getattr(owner, name, None)) is not None), None)


def _layers(frames: list[FrameType], layer_of: _LayerOf) -> Iterator[str]:
    """Yield the layers whose code is among the frames: as they print themselves, or else by name."""
    seen: set[int] = set()
    for frame in frames:
        owner = layer_of(frame) or frame.f_locals.get("self")
        if isinstance(owner, (Layer, Stack)):
            if id(owner) not in seen:
                seen.add(id(owner))
                yield owner.title() if isinstance(owner, Stack) else repr(owner)
            continue
        # One that was opened by hand, or a part of a layer: its name is better than nothing.
        name, opened, _ = frame.f_code.co_qualname.partition(".open.<locals>.")
        if opened:
            yield name


def _place(frame: FrameType) -> str:
    path = frame.f_code.co_filename.replace("\\", "/").split("/")
    return f"{'/'.join(path[-2:])}:{frame.f_lineno} {frame.f_code.co_name}"
