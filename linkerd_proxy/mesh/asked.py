"""What a worker answers its parent: its tasks, what it observes, its log and its live traffic."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from linkerd_proxy.errors import InvalidConfiguration, Overloaded
from linkerd_proxy.mesh.channel import Channel
from linkerd_proxy.mesh.log_level import apply_log_level
from linkerd_proxy.mesh.log_stream import open_log
from linkerd_proxy.mesh.observed import observed_here
from linkerd_proxy.mesh.tap_stream import TapWish, tap_here
from linkerd_proxy.mesh.tasks import TaskTree
from linkerd_proxy.metrics.tap_events import packed

__all__ = ["Asked", "tasks_here"]

_SILENCE = 10.0  # seconds after which a tap is asked again whether more can come


class Asked:
    """Answers the parent's messages, each in a task of its own: one that waits keeps no other waiting.

    Args:
        channel: To the parent.
        nursery: For the tasks.
    """

    __slots__ = ("_channel", "_closing", "_nursery", "_open")

    def __init__(self, channel: Channel, nursery: trio.Nursery) -> None:
        self._channel = channel
        self._nursery = nursery
        self._open: dict[int, trio.CancelScope] = {}
        self._closing: dict[int, trio.Event] = {}

    def take(self, message: Mapping[str, Any]) -> None:
        """Do what a message says."""
        event, number = message["event"], message.get("id", 0)
        if event == "ask":
            self._nursery.start_soon(self._answer, number, message["what"])
        elif event == "open":
            self._open[number] = trio.CancelScope()  # now: "close" may come before the task has begun
            self._nursery.start_soon(self._stream, number, message["what"], message["wish"])
        elif event == "close":
            if (scope := self._open.get(number)) is not None:
                self._closing[number] = trio.Event()
                scope.cancel()
        elif event == "log-level":
            apply_log_level(message["text"])

    async def _answer(self, number: int, what: str) -> None:
        found = await tasks_here() if what == "tasks" else observed_here().as_data()
        await self._send({"event": "answer", "id": number, "data": found})

    async def _stream(self, number: int, what: str, wish: Any) -> None:
        answered = False

        async def answer() -> None:
            nonlocal answered
            answered = True
            await self._send({"event": "answer", "id": number, "data": "open"})

        with self._open[number]:
            try:
                for closing in list(self._closing.values()):
                    await closing.wait()  # what is being closed makes room for this one
                await (self._tap(number, TapWish(**wish), answer) if what == "tap" else self._log(number, wish, answer))
            except (InvalidConfiguration, Overloaded):
                pass  # the parent has looked at the wish, and counts what is open
            finally:
                del self._open[number]
                if number in self._closing:
                    self._closing.pop(number).set()
        if not answered:
            await answer()
        await self._send({"event": "over", "id": number})

    async def _tap(self, number: int, wish: TapWish, opened: Callable[[], Awaitable[None]]) -> None:
        async with tap_here(wish) as tap:
            await opened()
            while (batch := await tap.next_batch(_SILENCE)) is not None:
                events, dropped = batch
                if events or dropped:
                    items = [packed(event) for event in events]
                    # While the parent takes nothing, events are dropped behind this, and no request waits.
                    await self._send({"event": "batch", "id": number, "items": items, "dropped": dropped})

    async def _log(self, number: int, text: str, opened: Callable[[], Awaitable[None]]) -> None:
        with open_log(text, worker=os.getpid()) as stream:
            await opened()
            while True:
                lines, dropped = await stream.next_batch(_SILENCE)
                if lines or dropped:
                    await self._send({"event": "batch", "id": number, "items": lines, "dropped": dropped})

    async def _send(self, message: Mapping[str, Any]) -> None:
        try:
            await self._channel.send(json.dumps(message))
        except trio.BrokenResourceError:
            return  # the parent is gone, as the channel's reader will tell


async def tasks_here() -> list[str]:
    """Return the lines of this Trio run's task tree."""
    text = b"".join([piece async for piece in TaskTree()])
    return text.decode("utf-8", "replace").splitlines()
