"""Connections go down the branch for where they were meant to go."""

from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from linkerd_proxy.address import Address, UnixAddress
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.core.work import Connection
from linkerd_proxy.errors import InvalidConfiguration, NoRoute
from linkerd_proxy.route import OpaqueRoute
from linkerd_proxy.testing import memory_connection


@dataclass(frozen=True, slots=True)
class Place(Stack[Connection]):
    name: str
    seen: list[str]

    @asynccontextmanager
    async def open(self):
        async def service(_: Connection) -> None:
            self.seen.append(self.name)

        yield service


KEYS = [
    "*",
    ":5432",
    "10.0.0.0/8",
    "10.0.0.0/8:5432",
    "10.1.0.0/16",
    "10.1.2.3",
    "[fd00::/8]:25",
    "fd00::/16",
    "0.0.0.0/0",
]


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        (Address("10.1.2.3", 80), "10.1.2.3"),
        (Address("10.1.2.4", 80), "10.1.0.0/16"),
        (Address("10.1.2.4", 5432), "10.1.0.0/16"),
        (Address("10.2.2.4", 80), "10.0.0.0/8"),
        (Address("10.2.2.4", 5432), "10.0.0.0/8:5432"),
        (Address("::ffff:10.2.2.4", 5432), "10.0.0.0/8:5432"),
        (Address("192.0.2.1", 5432), "0.0.0.0/0"),
        (Address("fdff::1", 25), "[fd00::/8]:25"),
        (Address("fd00::1", 25), "fd00::/16"),
        (Address("2001:db8::1", 5432), ":5432"),
        (Address("2001:db8::1", 80), "*"),
        (Address("db.example", 5432), ":5432"),
        (UnixAddress("/run/x"), "*"),
    ],
)
async def test_the_longest_network_wins_then_a_port(destination, expected) -> None:
    for keys in (KEYS, KEYS[::-1]):
        seen: list[str] = []
        async with opened(OpaqueRoute({key: Place(key, seen) for key in keys})) as service:
            await service(memory_connection(original_dst=destination)[1])
        assert seen == [expected]


async def test_without_an_original_destination_the_local_address_counts() -> None:
    seen: list[str] = []
    async with opened(OpaqueRoute({":8080": Place("it", seen)})) as service:
        await service(memory_connection()[1])
        with pytest.raises(NoRoute, match=r"no route for connections to 192.0.2.1:1; add one, or '\*' for all"):
            await service(memory_connection(original_dst=Address("192.0.2.1", 1))[1])
    assert seen == ["it"]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ([], "no routes"),
        (["x"], "'x' is no route"),
        (["10.0.0.1/8"], "has host bits set"),
        ([":0"], "'0' is no port"),
        ([":x"], "'x' is no port"),
        (["10.0.0.1:70000"], "is no port"),
        ([""], "is no route"),
        (["10.0.0.1", "10.0.0.1/32"], "match the same"),
    ],
)
def test_what_can_not_be_is_refused(keys, text) -> None:
    with pytest.raises(InvalidConfiguration, match=text):
        OpaqueRoute({key: Place("x", []) for key in keys})


def test_the_tree_shows_the_keys() -> None:
    assert str(OpaqueRoute({"*": Place("x", [])})).splitlines() == ["OpaqueRoute()", "└─ *: Place(name='x', seen=[])"]
