"""``check_layer``: what the design asks of every layer, tried on one."""

from __future__ import annotations

import ast
import gc
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Generic, TypeVar

import trio
import trio.testing

from linkerd_proxy.core.message import Response
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Connection, Dial, Exchange
from linkerd_proxy.errors import UpstreamClosed

__all__ = ["LayerViolations", "check_layer"]

A = TypeVar("A")
B = TypeVar("B")


class LayerViolations(AssertionError):
    """A layer breaks rules. ``rules`` holds their names, the text says how."""

    def __init__(self, layer: str, found: dict[str, str]) -> None:
        super().__init__("\n".join([f"{layer} breaks {len(found)} rules:", *(f"  {k}: {v}" for k, v in found.items())]))
        self.rules: frozenset[str] = frozenset(found)


async def check_layer(
    layer: Layer[A, B],
    make_work: Callable[[], A],
    *,
    inner: Service[B] | None = None,
    rescues: bool = False,
    shares: bool = False,
) -> None:
    """Try a layer against the rules that every layer keeps.

    =============  ====================================================================================
    ``reaches``    work gets through to the inner service, of that opening and of no other
    ``serves``     serving returns when the inner service has, and raises nothing of its own
    ``answers``    an exchange is answered exactly once when the inner service answers it once
    ``cancels``    a cancellation reaches the inner service at once, and comes out as a cancellation
    ``raises``     what the inner service raises comes out as the same object
    ``ungrouped``  no exception group comes out
    ``forgets``    nothing keeps the work after it was served
    ``opens``      two openings live side by side, closing one leaves the other, and it opens again
    ``closes``     closing waits for nothing and leaves no task behind
    ``value``      it is a frozen dataclass without a ``__dict__``; using it leaves it as it was
    ``telling``    its ``repr`` is the call that makes it, with every setting that is not as by default
    =============  ====================================================================================

    Args:
        layer: The layer to try.
        make_work: Makes a new piece of work that the layer lets through, in memory: with nothing to wait for.
        inner: A service that does what it should; by default it answers an exchange with an empty 200, gives a dial a
            stream whose peer has nothing to say, and lets a connection be.
        rescues: Whether the layer turns errors into answers; then none may come out.
        shares: Whether what it began inside may serve other work, as a pool's connection; then a cancellation must come
            out, but needn't reach the inner service.

    Raises:
        LayerViolations: naming every rule that it breaks.
    """
    kit = _Kit(layer, make_work, inner or _behave, rescues, shares)
    kit.check_value()
    await kit.check_serving()
    await kit.check_cancelling()
    await kit.check_raising()
    await kit.check_opening()
    kit.check_value()
    if kit.found:
        raise LayerViolations(type(layer).__name__, kit.found)


async def _behave(work: object) -> None:
    await trio.lowlevel.checkpoint()
    if isinstance(work, Exchange):
        await work.respond(Response())
    elif isinstance(work, Dial):
        mine, theirs = trio.testing.memory_stream_pair()
        await theirs.send_eof()
        await work.use(mine)
        await mine.aclose()
        await theirs.aclose()


class _Trial:
    """One piece of work served in a task of its own until nothing moves any more."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.ended = False
        self.returned = False
        self.error: BaseException | None = None

    async def run(self, serve: Callable[[], Awaitable[object]]) -> None:
        try:
            with self.scope:
                await serve()
                self.returned = True
        except (Exception, BaseExceptionGroup) as error:
            self.error = error
        self.ended = True

    @property
    def outcome(self) -> str:
        if not self.ended:
            return "it still waits"
        if self.error is not None:
            return f"it raised {self.error!r}"
        return "it returned" if self.returned else "it was cancelled"


class _Kit(Generic[A, B]):
    def __init__(
        self, layer: Layer[A, B], make_work: Callable[[], A], inner: Service[B], rescues: bool, shares: bool
    ) -> None:
        self.layer = layer
        self.make_work = make_work
        self.inner = inner
        self.rescues = rescues
        self.shares = shares
        self.found: dict[str, str] = {}
        self.first_repr = repr(layer)

    def broken(self, rule: str, how: str) -> None:
        self.found.setdefault(rule, how)

    async def settle(
        self, serve: Callable[[], Awaitable[object]], meanwhile: Callable[[_Trial], None] | None = None
    ) -> _Trial:
        trial = _Trial()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trial.run, serve)
            await trio.testing.wait_all_tasks_blocked()
            if meanwhile is not None:
                meanwhile(trial)
                await trio.testing.wait_all_tasks_blocked()
            ended = trial.ended
            nursery.cancel_scope.cancel()
        trial.ended = ended
        if isinstance(trial.error, BaseExceptionGroup):
            self.broken("ungrouped", f"{trial.error!r} came out")
        return trial

    # --- the rules -----------------------------------------------------------------------------

    async def check_serving(self) -> None:
        answers: list[Response] = []
        reached: list[bool] = []

        async def inner(work: B) -> None:
            reached.append(True)
            await self.inner(work)

        async def serve_one(service: Service[A]) -> weakref.ref[object] | None:
            work, canary = _counted(self.make_work(), answers)
            await service(work)
            return canary

        canaries: list[weakref.ref[object] | None] = []
        async with self.layer.open(inner) as service:

            async def serve() -> None:
                canaries.append(await serve_one(service))

            trial = await self.settle(serve)
            if not trial.returned:
                self.broken("serves", f"the inner service returned, yet {trial.outcome}")
            if not reached:
                self.broken("reaches", "the inner service was never called")
            gc.collect()
            if any(canary is not None and canary() is not None for canary in canaries):
                self.broken("forgets", "something keeps the work after it was served")
        finals = [answer for answer in answers if answer.is_final]
        if isinstance(self.make_work(), Exchange) and trial.returned and len(finals) != 1:
            self.broken("answers", f"the exchange was answered {len(finals)} times")

    async def check_cancelling(self) -> None:
        seen: list[str] = []

        async def inner(work: B) -> None:
            seen.append("entered")
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                seen.append("cancelled")
                raise

        async with self.layer.open(inner) as service:
            # A client that goes away, and nothing else, is what a cancellation from outside means.
            trial = await self.settle(lambda: service(self.make_work()), lambda trial: trial.scope.cancel())
            if "entered" not in seen:
                return  # check_serving has told
            if "cancelled" not in seen and not self.shares:
                self.broken("cancels", "the inner service was not cancelled")
            elif not trial.ended or trial.returned or trial.error is not None:
                self.broken("cancels", f"the work was cancelled, yet {trial.outcome}")

    async def check_raising(self) -> None:
        for error in (UpstreamClosed("the kit's"), RuntimeError("the kit's"), OSError("the kit's")):

            async def inner(work: B, error: Exception = error) -> None:
                await trio.lowlevel.checkpoint()
                raise error

            async with self.layer.open(inner) as service:
                trial = await self.settle(lambda service=service: service(self.make_work()))  # type: ignore[misc]
            if self.rescues and not trial.returned:
                self.broken("raises", f"it rescues, yet for {error!r} {trial.outcome}")
            elif not self.rescues and trial.error is not error:
                self.broken("raises", f"the inner service raised {error!r}, yet {trial.outcome}")

    async def check_opening(self) -> None:
        calls: list[int] = []

        def inner(number: int) -> Service[B]:
            async def service(work: B) -> None:
                calls.append(number)
                await self.inner(work)

            return service

        before = trio.lowlevel.current_statistics().tasks_living
        # Outermost, since what a layer opens inside must close inside: it cancels a closing that waits.
        async with trio.open_nursery() as watching:
            first: list[bool] = []
            second: list[bool] = []
            async with self.layer.open(inner(1)) as one:
                async with self.layer.open(inner(2)) as two:
                    for number, service in ((1, one), (2, two)):
                        await self.settle(lambda service=service: service(self.make_work()))  # type: ignore[misc]
                        if calls and calls[-1] != number:
                            self.broken("reaches", f"work of opening {number} reached that of opening {calls[-1]}")
                    watching.start_soon(self._watch, second, watching.cancel_scope)
                second.append(True)
                trial = await self.settle(lambda: one(self.make_work()))
                if not trial.returned:
                    self.broken("opens", f"another opening was closed, and now {trial.outcome}")
                watching.start_soon(self._watch, first, watching.cancel_scope)
            first.append(True)
        async with self.layer.open(inner(3)) as again:
            trial = await self.settle(lambda: again(self.make_work()))
            if not trial.returned:
                self.broken("opens", f"it was opened again, and now {trial.outcome}")
        left = trio.lowlevel.current_statistics().tasks_living - before
        if left > 0:
            self.broken("closes", f"{left} tasks are left behind")

    async def _watch(self, closed: list[bool], everything: trio.CancelScope) -> None:
        await trio.testing.wait_all_tasks_blocked()
        if not closed:
            self.broken("closes", "closing waits for something")
            everything.cancel()

    # --- the value -----------------------------------------------------------------------------

    def check_value(self) -> None:
        layer = self.layer
        params = getattr(type(layer), "__dataclass_params__", None)
        if params is None or not params.frozen:
            self.broken("value", "it is no frozen dataclass")
        elif hasattr(layer, "__dict__"):
            self.broken("value", "it has a __dict__: derive with slots=True")
        if repr(layer) != self.first_repr:
            self.broken("value", f"it changed from {self.first_repr} to {layer!r}")
        text = repr(layer)
        try:
            ast.parse(text, mode="eval")
        except SyntaxError:
            self.broken("telling", f"{text!r} is no Python")
        if not text.startswith(type(layer).__name__):
            self.broken("telling", f"{text!r} does not name {type(layer).__name__}")
        value_of: object = layer
        if is_dataclass(value_of):
            for field in fields(value_of):
                value = getattr(layer, field.name)
                if field.repr and value != _default(field) and not _tells(text, value):
                    self.broken("telling", f"{text!r} does not tell {field.name}={value!r}")


def _default(field: Field[object]) -> object:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _tells(text: str, value: object) -> bool:
    if isinstance(value, (tuple, list, frozenset)):
        return all(_tells(text, one) for one in value)
    return repr(value) in text or str(value) in text


def _counted(work: A, answers: list[Response]) -> tuple[A, weakref.ref[object] | None]:
    """Return the work with its answers counted, and a weak reference to something that nobody else holds."""
    canary: object = work
    known: object = work
    if isinstance(known, Exchange):
        respond = known.respond

        async def count(response: Response) -> None:
            answers.append(response)
            await respond(response)

        known.respond = canary = count
    elif isinstance(known, Dial):
        use = known.use

        async def once(stream: trio.abc.HalfCloseableStream) -> None:
            await use(stream)

        known.use = canary = once
    elif isinstance(known, Connection):
        canary = known.stream
    try:
        return work, weakref.ref(canary)
    except TypeError:  # work of a type of its own, without a slot for weak references
        return work, None
