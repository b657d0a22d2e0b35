"""The live tree of Trio tasks, with the layers that each is in: for the question where a request is stuck."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from types import FrameType
from typing import Any, TypeAlias

import trio

from linkerd_proxy.core.living import layers_by_code
from linkerd_proxy.core.message import Body
from linkerd_proxy.core.stack import Layer, Stack

__all__ = ["TaskTree"]

_DEPTH = 64  # frames of one task that are looked at; a coroutine that waits is no deeper
_LayerOf: TypeAlias = Callable[[FrameType], object | None]
_FRAMES = 4  # innermost lines that are shown of each task
_SLICE = 64  # lines after which others come to their turn; own figure: half a millisecond


class TaskTree(Body):
    """The body of an answer that shows the tree: of each task its name, the layers it is in, and where it waits.

    It is made as it is pulled, slice by slice with a checkpoint between, however many tasks there are. So each task is
    shown as it is when its turn comes, those that end before that not at all.
    """

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        super().__init__()
        self._lines = _tree()

    async def pull(self) -> bytes:
        """Return the next lines."""
        await trio.lowlevel.checkpoint()
        return "".join(f"{line}\n" for line in islice(self._lines, _SLICE)).encode()


def _tree() -> Iterator[str]:
    told: dict[int, tuple[object, str]] = {}  # what layers print, for all the tasks that are in the same ones
    layer_of = layers_by_code()
    root = trio.lowlevel.current_root_task()
    waiting = [] if root is None else [(root, "")]
    while waiting:
        task, indent = waiting.pop()
        frames = list(_frames(task.coro))
        if not frames and task is not trio.lowlevel.current_task():
            continue  # it has ended
        yield f"{indent}{task.name}"
        for layer in _layers(frames, layer_of, told):
            yield f"{indent}  in {layer}"
        if task is not trio.lowlevel.current_task():
            ours = [frame for frame in frames if not str(frame.f_globals.get("__name__", "")).startswith("trio.")]
            for frame in ours[-_FRAMES:]:
                yield f"{indent}  at {_place(frame)}"
        for nursery in reversed(task.child_nurseries):
            children = sorted(nursery.child_tasks, key=lambda one: one.name, reverse=True)
            waiting += [(child, indent + "    ") for child in children]


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


def _layers(frames: list[FrameType], layer_of: _LayerOf, told: dict[int, tuple[object, str]]) -> Iterator[str]:
    """Yield the layers whose code is among the frames: as they print themselves, or else by name."""
    seen: set[int] = set()
    for frame in frames:
        owner = layer_of(frame) or frame.f_locals.get("self")
        if isinstance(owner, (Layer, Stack)):
            if id(owner) not in seen:
                seen.add(id(owner))
                if id(owner) not in told:  # with the owner, so that its id stays its own
                    told[id(owner)] = owner, owner.title() if isinstance(owner, Stack) else repr(owner)
                yield told[id(owner)][1]
            continue
        # One that was opened by hand, or a part of a layer: its name is better than nothing.
        name, opened, _ = frame.f_code.co_qualname.partition(".open.<locals>.")
        if opened:
            yield name


def _place(frame: FrameType) -> str:
    path = frame.f_code.co_filename.replace("\\", "/").split("/")
    return f"{'/'.join(path[-2:])}:{frame.f_lineno} {frame.f_code.co_name}"
