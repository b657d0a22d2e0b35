"""Serving: accepting, draining, containing, and the limit on connections."""

import logging
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import default_max_connections, serve
from linkerd_proxy.core.stack import Service, Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.errors import UpstreamClosed
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.testing import MemoryListener


@dataclass(frozen=True, slots=True)
class Leaf(Stack[Connection]):
    service: Service[Connection]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        yield self.service


async def echo(connection: Connection) -> None:
    async for data in connection.stream:
        await connection.stream.send_all(data)


async def alive(listener: MemoryListener) -> bool:
    """Return whether a new client gets its echo."""
    client = listener.connect()
    await client.send_all(b"ping")
    answer = await client.receive_some()
    await client.aclose()
    return answer == b"ping"


def _deep(error: Exception) -> ExceptionGroup:
    return ExceptionGroup("outer", [ExceptionGroup("inner", [error, ValueError("beside")])])


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


FAILURES = [
    OSError("gone"),
    RuntimeError("a bug"),
    MemoryError(),
    RecursionError(),
    StopIteration(),
    StopAsyncIteration(),
    trio.BrokenResourceError("reset"),
    trio.TooSlowError(),
    UpstreamClosed("half way"),
    _deep(UpstreamClosed("in a group")),
    UnicodeError("bytes"),
    Unspeakable(),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
async def test_rule_8_one_connections_failure_never_reaches_another(failure: Exception) -> None:
    async def service(connection: Connection) -> None:
        if await connection.stream.receive_some(1) == b"!":
            raise failure
        await echo(connection)

    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, Leaf(service), [listener])
        steady = listener.connect()
        await steady.send_all(b"xhello")
        assert await steady.receive_some() == b"hello"
        failing = listener.connect()
        await failing.send_all(b"!")
        assert await failing.receive_some() == b""
        await steady.send_all(b"still here")
        assert await steady.receive_some() == b"still here"
        nursery.cancel_scope.cancel()


class _BadClose(trio.abc.HalfCloseableStream):
    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.send_all = stream.send_all
        self.send_eof = stream.send_eof
        self.receive_some = stream.receive_some
        self.wait_send_all_might_not_block = stream.wait_send_all_might_not_block
        self.stream = stream

    async def send_all(self, data): ...
    async def send_eof(self): ...
    async def receive_some(self, max_bytes=None): ...
    async def wait_send_all_might_not_block(self): ...

    async def aclose(self) -> None:
        await self.stream.aclose()
        raise RuntimeError("even closing fails")


@pytest.mark.parametrize("succeeds", [True, False])
async def test_rule_8_holds_for_what_closing_raises(succeeds: bool) -> None:
    class Listener(MemoryListener):
        async def accept(self) -> Connection:
            connection = await super().accept()
            return connection.with_stream(_BadClose(connection.stream))

    async def service(connection: Connection) -> None:
        if not succeeds:
            raise ValueError("first")

    listener = Listener()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, Leaf(service), [listener])
        for _ in range(2):
            assert await listener.connect().receive_some() == b""
        nursery.cancel_scope.cancel()


async def test_rule_8_holds_when_the_log_itself_is_broken() -> None:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    async def service(connection: Connection) -> None:
        raise ValueError("x")

    handler = Handler()
    logging.getLogger("linkerd_proxy").addHandler(handler)
    listener = MemoryListener()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, Leaf(service), [listener])
            for _ in range(2):
                assert await listener.connect().receive_some() == b""
            nursery.cancel_scope.cancel()
    finally:
        logging.getLogger("linkerd_proxy").removeHandler(handler)


async def test_a_failure_is_counted_and_logged_on_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def service(connection: Connection) -> None:
        error = UpstreamClosed("closed\r\nInjected: line\x1b[31m")
        error.add_note("endpoint 10.0.0.1:80")
        raise error

    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, Leaf(service), [listener])
        await listener.connect().receive_some()
        nursery.cancel_scope.cancel()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("UC closed\\r\\nInjected: line\\x1b[31m")
    assert "endpoint 10.0.0.1:80 from 127.0.0.1:49152 to 127.0.0.1:8080" in line
    assert current_registry().counter("proxy_errors_total", "", error="UC").value == 1


async def test_a_flood_of_failures_is_not_a_flood_of_lines(caplog: pytest.LogCaptureFixture, autojump_clock) -> None:
    async def service(connection: Connection) -> None:
        raise UpstreamClosed("x")

    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, Leaf(service), [listener])
        for _ in range(80):
            await listener.connect().receive_some()
        assert len(caplog.records) == 50
        await trio.sleep(1)
        await listener.connect().receive_some()
        await trio.testing.wait_all_tasks_blocked()
        assert caplog.records[-1].getMessage().endswith("(30 more not logged)")
        nursery.cancel_scope.cancel()
    assert current_registry().counter("proxy_errors_total", "", error="UC").value == 81


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit])
async def test_process_exit_passes(failure: type[BaseException]) -> None:
    async def service(connection: Connection) -> None:
        raise failure

    listener = MemoryListener()
    listener.connect()
    with pytest.raises(BaseExceptionGroup) as caught:
        await serve(Leaf(service), [listener])
    assert caught.value.subgroup(failure) is not None
    assert listener.closed


async def test_what_fails_while_the_server_stops_is_contained_and_the_cancellation_passes() -> None:
    async def fails_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("at the end")

    async def service(connection: Connection) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails_when_cancelled)
            nursery.start_soon(trio.sleep_forever)

    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, Leaf(service), [listener])
        listener.connect()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert current_registry().counter("proxy_errors_total", "", error="BUG").value == 1


# --- drain -------------------------------------------------------------------------------------


async def test_a_drain_stops_accepting_and_lets_connections_finish(autojump_clock) -> None:
    drain = Drain(grace=120)
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: serve(Leaf(echo), [listener], drain=drain, task_status=task_status))
        client = listener.connect()
        await client.send_all(b"a")
        assert await client.receive_some() == b"a"
        drain.start()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ConnectionRefusedError):
            listener.connect()
        await client.send_all(b"b")
        assert await client.receive_some() == b"b"
        await trio.sleep(100)
        await client.send_eof()
    assert trio.current_time() == pytest.approx(100)


async def test_who_has_connected_when_a_drain_starts_is_served() -> None:
    drain = Drain()
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: serve(Leaf(echo), [listener], drain=drain, task_status=task_status))
        clients = [listener.connect() for _ in range(5)]
        drain.start()  # before any of them was accepted
        for client in clients:
            await client.send_all(b"a")
            assert await client.receive_some() == b"a"
            await client.send_eof()
    assert listener.closed


async def test_after_the_grace_what_is_left_is_cancelled(autojump_clock) -> None:
    drain = Drain(grace=7)
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: serve(Leaf(echo), [listener], drain=drain, task_status=task_status))
        client = listener.connect()
        await trio.testing.wait_all_tasks_blocked()
        drain.start()
        assert await client.receive_some() == b""
    assert trio.current_time() == pytest.approx(7)


async def test_a_drain_that_started_before_serves_nothing() -> None:
    drain = Drain()
    drain.start()
    listener = MemoryListener()
    await serve(Leaf(echo), [listener], drain=drain)
    assert listener.closed


async def test_cancelling_closes_the_listeners_and_every_connection() -> None:
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, Leaf(echo), [listener])
        client = listener.connect()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert listener.closed
    assert await client.receive_some() == b""
    assert current_registry().gauge("proxy_open_connections", "").value == 0


async def test_a_stack_that_does_not_open_leaves_no_listener_open() -> None:
    class Broken(Stack[Connection]):
        def open(self):
            raise ValueError("can't open")

    listener = MemoryListener()
    with pytest.raises(ValueError, match="can't open"):
        await serve(Broken(), [listener])
    assert listener.closed


# --- limits ------------------------------------------------------------------------------------


async def test_more_connections_than_there_is_room_for_are_closed_and_counted() -> None:
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: serve(Leaf(echo), [listener], max_connections=1, task_status=task_status)
        )
        first = listener.connect()
        await first.send_all(b"a")
        assert await first.receive_some() == b"a"
        assert await listener.connect().receive_some() == b""
        assert current_registry().counter("proxy_refused_total", "").value == 1
        await first.send_eof()
        assert await first.receive_some() == b""
        await trio.testing.wait_all_tasks_blocked()
        assert await alive(listener)
        nursery.cancel_scope.cancel()


async def test_two_servers_of_one_run_do_not_take_each_others_room() -> None:
    busy, quiet = MemoryListener(), MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, Leaf(echo), [busy])
        await nursery.start(lambda task_status: serve(Leaf(echo), [quiet], max_connections=1, task_status=task_status))
        clients = [busy.connect() for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked()
        assert await alive(quiet)
        assert clients
        nursery.cancel_scope.cancel()


def test_the_default_leaves_descriptors_for_upstreams(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {1024: 448, 100: 1, 1_000_000: 10_000, resource.RLIM_INFINITY: 10_000}
    for soft, connections in limits.items():
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert default_max_connections() == connections


# --- listeners ---------------------------------------------------------------------------------


class _Failing(MemoryListener):
    async def accept(self) -> Connection:
        await super().accept()
        raise OSError("the interface is gone")


async def test_one_listeners_failure_is_told_and_leaves_the_others(caplog: pytest.LogCaptureFixture) -> None:
    failing, fine = _Failing(), MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, Leaf(echo), [failing, fine])
        failing.connect()
        await trio.testing.wait_all_tasks_blocked()
        assert await alive(fine)
        nursery.cancel_scope.cancel()
    assert "accepts no more: the interface is gone" in caplog.text
    assert current_registry().counter("proxy_listener_failures_total", "").value == 1


async def test_the_last_listeners_failure_ends_the_server_bare() -> None:
    failing = _Failing()
    failing.connect()
    with pytest.raises(OSError, match="the interface is gone") as caught:
        await serve(Leaf(echo), [failing])
    assert caught.value.__notes__ == ["listener 127.0.0.1:8080"]
    assert failing.closed


async def test_a_listener_closed_on_purpose_ends_the_server_when_its_connections_end() -> None:
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, Leaf(echo), [listener])
        client = listener.connect()
        await client.send_all(b"a")
        assert await client.receive_some() == b"a"
        await listener.aclose()
        await client.send_eof()


async def test_one_listener_that_does_not_close_leaves_none_open(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(MemoryListener):
        async def aclose(self) -> None:
            await super().aclose()
            raise OSError("busy")

    drain = Drain()
    drain.start()
    stuck, fine = Stuck(), MemoryListener()
    await serve(Leaf(echo), [stuck, fine], drain=drain)
    assert fine.closed
    assert "could not close the listener" in caplog.text
