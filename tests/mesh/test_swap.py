"""Swapping: another stack takes over, the old one finishes, and nothing is lost in between."""

from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.ready import announce_ready, hearing_ready
from linkerd_proxy.core.shared import Resource, shared
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.server import Http
from linkerd_proxy.mesh.swap import Swap
from linkerd_proxy.testing import MemoryConnect, MemoryListener, call, http_origin, memory_connection, serving


@dataclass(frozen=True, slots=True, eq=False)
class Leaf(Stack[Connection]):
    """Sends its name to each connection, and again whenever something comes; keeps a diary of its openings."""

    name: bytes
    diary: list
    ready: bool = True

    @asynccontextmanager
    async def open(self):
        self.diary.append(f"open {self.name.decode()}")
        announce_ready(lambda: self.ready)

        async def service(connection: Connection) -> None:
            await connection.stream.send_all(self.name)
            async for _ in connection.stream:
                await connection.stream.send_all(self.name)

        yield service
        self.diary.append(f"close {self.name.decode()}")


class Broken(Stack[Connection]):
    @asynccontextmanager
    async def open(self):
        await trio.lowlevel.checkpoint()
        raise OSError("no such luck")
        yield


@asynccontextmanager
async def asking(service: Service[Connection]):
    """Serve one connection inside the block, and yield the client's end."""
    client, connection = memory_connection()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await service(connection)
            await connection.stream.aclose()

        nursery.start_soon(serve)
        yield client
        await client.aclose()


async def test_new_connections_go_to_the_new_stack_and_old_ones_stay(autojump_clock) -> None:
    diary: list[str] = []
    swap = Swap(Leaf(b"a", diary))
    async with opened(swap) as service, asking(service) as first:
        assert await first.receive_some() == b"a"
        await swap.replace(Leaf(b"b", diary))
        async with asking(service) as second:
            assert await second.receive_some() == b"b"
        await first.send_all(b"x")
        assert await first.receive_some() == b"a"
        assert diary == ["open a", "open b"]
        await first.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert diary == ["open a", "open b", "close a"]
    assert diary == ["open a", "open b", "close a", "close b"]


async def test_a_stack_that_does_not_open_changes_nothing() -> None:
    diary: list[str] = []
    swap = Swap(Leaf(b"a", diary))
    async with opened(swap) as service:
        with pytest.raises(OSError, match="no such luck"):
            await swap.replace(Broken())
        async with asking(service) as client:
            assert await client.receive_some() == b"a"
    assert swap.stack.diary is diary
    assert diary == ["open a", "close a"]


async def test_a_first_stack_that_does_not_open_raises_in_no_group() -> None:
    with pytest.raises(OSError, match="no such luck"):
        async with opened(Swap(Broken())):
            pass


async def test_cancelling_a_replacement_changes_nothing(autojump_clock) -> None:
    diary: list[str] = []

    class Slow(Stack[Connection]):
        @asynccontextmanager
        async def open(self):
            await trio.sleep(10)
            yield None

    swap = Swap(Leaf(b"a", diary))
    async with opened(swap) as service:
        with trio.move_on_after(1):
            await swap.replace(Slow())
        async with asking(service) as client:
            assert await client.receive_some() == b"a"


async def test_what_is_left_after_the_grace_is_cancelled(autojump_clock) -> None:
    diary: list[str] = []
    swap = Swap(Leaf(b"a", diary), grace=7)
    async with opened(swap) as service, asking(service) as client:
        assert await client.receive_some() == b"a"
        since = trio.current_time()
        await swap.replace(Leaf(b"b", diary))
        assert await client.receive_some() == b""
        assert trio.current_time() - since == pytest.approx(7)


async def test_more_than_32_old_stacks_do_not_pile_up(autojump_clock) -> None:
    diary: list[str] = []
    swap = Swap(Leaf(b"0", diary), grace=1000)
    async with opened(swap) as service, asking(service) as oldest:
        assert await oldest.receive_some() == b"0"
        async with trio.open_nursery() as nursery:
            for number in range(1, 33):
                await swap.replace(Leaf(b"%d" % number, diary))
                _, connection = memory_connection()
                nursery.start_soon(service, connection)
                await trio.testing.wait_all_tasks_blocked()
            await oldest.send_all(b"x")
            assert await oldest.receive_some() == b"0"
            await swap.replace(Leaf(b"33", diary))
            assert await oldest.receive_some() == b""
            nursery.cancel_scope.cancel()


async def test_a_swap_that_is_opened_twice_changes_in_both() -> None:
    diary: list[str] = []
    swap = Swap(Leaf(b"a", diary))
    async with opened(swap) as one, opened(swap) as two:
        await swap.replace(Leaf(b"b", diary))
        for service in (one, two):
            async with asking(service) as client:
                assert await client.receive_some() == b"b"


async def test_replacing_while_nobody_serves_is_for_the_next_opening() -> None:
    diary: list[str] = []
    swap = Swap(Leaf(b"a", diary))
    await swap.replace(Leaf(b"b", diary))
    async with opened(swap) as service, asking(service) as client:
        assert await client.receive_some() == b"b"


async def test_resources_that_both_stacks_name_stay_open() -> None:
    diary: list[str] = []

    class Kept(Resource[None]):
        @asynccontextmanager
        async def open(self):
            diary.append("open")
            yield None
            diary.append("close")

    @dataclass(frozen=True, slots=True, eq=False)
    class User(Stack[Connection]):
        resource: Kept

        @asynccontextmanager
        async def open(self):
            async with shared(self.resource):
                yield None

    kept = Kept()
    swap = Swap(User(kept))
    async with opened(swap):
        await swap.replace(User(kept))
        await trio.testing.wait_all_tasks_blocked()
        assert diary == ["open"]


async def test_its_readiness_is_that_of_what_serves_now() -> None:
    with hearing_ready() as heard:
        swap = Swap(Leaf(b"a", [], ready=False))
        async with swap.open():
            (ready,) = heard
            assert not ready()
            await swap.replace(Leaf(b"b", []))
            assert ready()


async def test_it_shows_what_serves_now() -> None:
    swap = Swap(MemoryConnect(MemoryListener()), grace=5)
    assert str(swap).startswith("Swap(grace=5)\n└─ now: MemoryConnect(")
    await swap.replace(Broken())
    assert repr(swap) == "Swap(Broken(), grace=5)"


# --- HTTP ----------------------------------------------------------------------------------------


@asynccontextmanager
async def http_stacks(*names):
    """Yield one stack of HTTP for each name, which answers with it."""
    from linkerd_proxy.core.message import Response
    from linkerd_proxy.http.handler import handler

    def make(name):
        async def answer(_):
            return Response(200, (), name.encode())

        return Http() | handler(answer)

    yield [make(name) for name in names]


async def answered(client) -> tuple[bytes, bytes]:
    """Return the head and the body of an HTTP/1 answer whose body has one letter."""
    data = b""
    while b"\r\n\r\n" not in data or data.endswith(b"\r\n\r\n"):
        chunk = await client.receive_some()
        assert chunk, data
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    return head.lower(), body


GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def test_an_idle_http1_connection_may_ask_once_more_and_hears_close(autojump_clock) -> None:
    async with http_stacks("a", "b") as (a, b):
        swap = Swap(a)
        listener = MemoryListener()
        async with serving(swap, listener):
            client, fresh = listener.connect(), listener.connect()
            await client.send_all(GET)
            head, body = await answered(client)
            assert (b"connection: close" in head, body) == (False, b"a")
            await swap.replace(b)
            await trio.sleep(5)  # nobody closes it meanwhile
            for idle in (client, fresh):
                await idle.send_all(GET)
                head, body = await answered(idle)
                assert (b"connection: close" in head, body) == (True, b"a")
                assert await idle.receive_some() == b""
            again = listener.connect()
            await again.send_all(GET)
            head, body = await answered(again)
            assert (b"connection: close" in head, body) == (False, b"b")


async def test_the_servers_own_drain_reaches_connections_of_every_stack(autojump_clock) -> None:
    async with http_stacks("a", "b") as (a, b):
        swap = Swap(a)
        listener = MemoryListener()
        drain = Drain(grace=50)
        async with serving(swap, listener, drain=drain):
            old = listener.connect()
            await old.send_all(GET)
            await answered(old)
            await swap.replace(b)
            new = listener.connect()
            await new.send_all(GET)
            await answered(new)
            since = trio.current_time()
            drain.start()
            assert await old.receive_some() == b""
            assert await new.receive_some() == b""
            assert trio.current_time() - since < 5  # they were idle, so nothing waited for the grace


async def test_exchanges_can_be_swapped_too() -> None:
    from linkerd_proxy.core.message import Request, Response
    from linkerd_proxy.http.handler import handler

    def answering(text):
        async def answer(_):
            return Response(200, (), text)

        return handler(answer)

    swap = Swap[Exchange](answering(b"a"))
    async with opened(swap) as service:
        async with call(service, Request("GET", "/", authority="x")) as response:
            assert await response.body.read() == b"a"
        await swap.replace(answering(b"b"))
        async with call(service, Request("GET", "/", authority="x")) as response:
            assert await response.body.read() == b"b"


async def test_http2_says_goaway_and_loses_nothing() -> None:
    """Our own client moves to a new connection as soon as it hears GOAWAY, while requests are on their way."""
    async with http_origin() as origin:
        from linkerd_proxy.core.message import Request
        from linkerd_proxy.tcp.connect import Connect

        def stack():
            return Http() | Client(protocol="h2") | Connect(origin.address)

        swap = Swap(stack(), grace=5)
        async with serving(swap) as address, opened(Client(protocol="h2") | Connect(address)) as client:
            failed: list[object] = []
            done = trio.Event()

            async def ask() -> None:
                while not done.is_set():
                    async with call(client, Request("GET", "/x", authority="x")) as response:
                        if response.status != 200 or await response.body.read() != b"GET /x":
                            failed.append(response)

            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(ask)
                for _ in range(20):
                    await swap.replace(stack())
                    for _ in range(50):
                        await trio.lowlevel.checkpoint()
                done.set()
            assert failed == []
