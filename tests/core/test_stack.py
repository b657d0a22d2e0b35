"""Composition, opening, sharing and drawing of stacks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from linkerd_proxy.core.stack import Layer, Service, Stack, opened
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.server import Http
from linkerd_proxy.tcp.connect import Connect


@dataclass(frozen=True, slots=True)
class Note(Layer[list[str], list[str]]):
    text: str

    async def serve(self, work: list[str], inner: Service[list[str]]) -> None:
        work.append(self.text)
        await inner(work)


@dataclass(frozen=True, slots=True)
class Leaf(Stack[list[str]]):
    name: str = "leaf"
    log: list[str] = field(default_factory=list, repr=False)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[list[str]]]:
        self.log.append(f"open {self.name}")

        async def service(work: list[str]) -> None:
            work.append(self.name)

        yield service
        self.log.append(f"close {self.name}")


@dataclass(frozen=True, slots=True)
class Tracked(Layer[list[str], list[str]]):
    name: str
    log: list[str] = field(repr=False)

    @asynccontextmanager
    async def open(self, inner: Service[list[str]]) -> AsyncIterator[Service[list[str]]]:
        self.log.append(f"open {self.name}")
        yield inner
        self.log.append(f"close {self.name}")


@dataclass(frozen=True, slots=True)
class Both(Stack[list[str]]):
    left: Stack[list[str]]
    right: Stack[list[str]]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[list[str]]]:
        async with opened(self.left) as left, opened(self.right) as right:

            async def service(work: list[str]) -> None:
                await left(work)
                await right(work)

            yield service

    def branches(self):
        return (("left", self.left), ("right", self.right))

    def title(self) -> str:
        return "Both()"


async def test_layers_run_in_the_order_in_which_they_are_written() -> None:
    work: list[str] = []
    async with opened(Note("a") | Note("b") | Leaf()) as service:
        await service(work)
    assert work == ["a", "b", "leaf"]


async def test_composition_is_associative() -> None:
    left = (Note("a") | Note("b")) | (Note("c") | Leaf())
    right = Note("a") | (Note("b") | Note("c")) | Leaf()
    assert str(left) == str(right)
    work: list[str] = []
    async with opened(right) as service:
        await service(work)
    assert work == ["a", "b", "c", "leaf"]


async def test_a_stack_opens_bottom_up_and_closes_top_down() -> None:
    log: list[str] = []
    async with opened(Tracked("outer", log) | Tracked("inner", log) | Leaf("leaf", log)):
        pass
    assert log == ["open leaf", "open inner", "open outer", "close outer", "close inner", "close leaf"]


async def test_a_stack_named_twice_is_opened_once_and_one_built_twice_is_two() -> None:
    log: list[str] = []
    shared = Leaf("shared", log)
    async with opened(Both(Note("l") | shared, Note("r") | shared)):
        assert log == ["open shared"]
    assert log == ["open shared", "close shared"]
    log.clear()
    async with opened(Both(Leaf("twin", log), Leaf("twin", log))):
        assert log == ["open twin", "open twin"]


async def test_the_same_stack_opens_as_often_as_one_likes() -> None:
    log: list[str] = []
    stack = Note("n") | Leaf("leaf", log)
    async with opened(stack) as first, opened(stack) as second:
        assert log == ["open leaf", "open leaf"]
        for service in (first, second):
            work: list[str] = []
            await service(work)
            assert work == ["n", "leaf"]


def test_printing_draws_the_tree() -> None:
    stack = Note("a") | Both(Note("l") | Leaf(), Leaf("r"))
    assert str(stack) == "\n".join(
        [
            "Note(text='a')",
            "Both()",
            "├─ left: Note(text='l')",
            "│    Leaf(name='leaf')",
            "└─ right: Leaf(name='r')",
        ]
    )


async def test_what_is_no_stack_is_told_where_it_is_opened() -> None:
    for given, told in [
        (Http() | Client(), r"^Http\(\) \| Client\(\) is a layer without an end: add \| Connect"),
        (Client(), r"^Client\(\) is a layer without an end"),
        (None, "^None is of type NoneType, and no stack"),
    ]:
        with pytest.raises(InvalidConfiguration, match=told):
            async with opened(given):
                raise AssertionError("it was opened")


def test_a_class_in_the_place_of_a_layer_is_told_with_the_brackets_that_it_lacks() -> None:
    with pytest.raises(TypeError, match=r"^Client is a class, and not one of its layers: write Client\(\)$"):
        Http() | Client
    with pytest.raises(TypeError, match=r"write Connect\(\)$"):
        Http() | Client() | Connect
    with pytest.raises(TypeError, match="unsupported operand"):
        Http() | 3


@pytest.mark.parametrize("given", [80, None, ("127.0.0.1", 80)])
def test_what_is_no_address_is_told_where_it_is_written(given) -> None:
    with pytest.raises(InvalidConfiguration, match="is no address: give text, as in"):
        Connect(given)
