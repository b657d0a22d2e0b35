"""What gRPC's service configs do in clients, done by the proxy, with grpcio on both ends: retries, pushback, deadlines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import asynccontextmanager

import pytest
import trio

from linkerd_proxy import Backoff, Budget, Client, Connect, Http, Rescue, Retry, Stack, Timeouts
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.testing import serving
from tests.patience import PATIENCE

grpc = pytest.importorskip("grpc")

QUICK = Backoff(0.001, 0.01)
TIMEOUT = 2.0  # seconds of a call that must reach its server in them, over connections that stand
# The client's own retries are off: what is seen are the proxy's.
OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
Code = grpc.StatusCode


class Service(grpc.GenericRpcHandler):
    """Does one thing of a list for each call, and the last one for ever: a code, or a function of message and context."""

    def __init__(self, *steps) -> None:
        self.steps = list(steps)
        self.calls: list[tuple[float, dict[str, str], float | None]] = []
        self.lock = threading.Lock()

    def next(self, context):
        with self.lock:
            metadata = {key: str(value) for key, value in context.invocation_metadata()}
            self.calls.append((time.monotonic(), metadata, context.time_remaining()))
            return self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]

    def service(self, call):
        name = call.method.rpartition("/")[2]
        return {
            "Unary": grpc.unary_unary_rpc_method_handler(self.unary),
            "Upload": grpc.stream_unary_rpc_method_handler(self.upload),
            "Download": grpc.unary_stream_rpc_method_handler(self.download),
        }[name]

    def unary(self, request: bytes, context) -> bytes:
        step = self.next(context)
        if isinstance(step, Code):
            context.abort(step, "asked for it")
        return step(request, context) if callable(step) else request

    def upload(self, requests: Iterator[bytes], context) -> bytes:
        return self.unary(b"".join(requests), context)

    def download(self, request: bytes, context) -> Iterator[bytes]:
        step = self.next(context)
        if isinstance(step, Code):
            context.abort(step, "asked for it")
        yield from step(request, context)


@asynccontextmanager
async def through(service: Service, layer: Stack[Exchange] | Callable):
    """Serve a service behind a proxy with one more layer, and yield how to call it from a thread."""
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[service])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        async with serving(Http() | Rescue() | layer | Client() | Connect(f"127.0.0.1:{port}")) as address:
            with grpc.insecure_channel(str(address), options=OPTIONS) as channel:

                async def ask(work, *args):
                    """Return the result, or the code, and the trailing metadata."""

                    def run():
                        try:
                            return work(channel, *args)
                        except grpc.RpcError as error:
                            return error

                    with trio.fail_after(PATIENCE):
                        return await trio.to_thread.run_sync(run)

                yield ask
    finally:
        server.stop(0).wait(PATIENCE)


def unary(channel, timeout=PATIENCE):
    return channel.unary_unary("/flow.Test/Unary")(b"hello", timeout=timeout)


def upload(channel):
    return channel.stream_unary("/flow.Test/Upload")(iter([b"one ", b"two ", b"three"]), timeout=PATIENCE)


def download(channel):
    got = []
    try:
        got.extend(channel.unary_stream("/flow.Test/Download")(b"", timeout=PATIENCE))
    except grpc.RpcError as error:
        got.append(error.code())
    return got


def pushback(milliseconds: str):
    def step(_, context):
        context.set_trailing_metadata([("grpc-retry-pushback-ms", milliseconds)])
        context.abort(Code.UNAVAILABLE, "not now")

    return step


def retry(**more) -> Retry:
    return Retry(more.pop("budget", Budget(1, 1000)), grpc="unavailable", backoff=QUICK, **more)


async def test_unavailable_is_asked_again_and_the_server_is_told_which_try_it_is():
    service = Service(Code.UNAVAILABLE, Code.UNAVAILABLE, "well")
    async with through(service, retry(limit=3)) as ask:
        assert await ask(unary) == b"hello"
    assert [metadata.get("grpc-previous-rpc-attempts") for _, metadata, _ in service.calls] == [None, "1", "2"]


@pytest.mark.parametrize(("limit", "calls"), [(0, 1), (1, 2), (4, 5)])
async def test_the_last_answer_is_handed_on(limit, calls):
    service = Service(Code.UNAVAILABLE)
    async with through(service, retry(limit=limit)) as ask:
        error = await ask(unary)
        assert (error.code(), error.details()) == (Code.UNAVAILABLE, "asked for it")
    assert len(service.calls) == calls


@pytest.mark.parametrize("code", [code for code in Code if code not in {Code.OK, Code.UNAVAILABLE}], ids=str)
async def test_what_is_not_listed_is_asked_once(code):
    service = Service(code)
    async with through(service, retry(limit=3)) as ask:
        assert (await ask(unary)).code() == code
    assert len(service.calls) == 1


async def test_calls_are_asked_once_where_nothing_says_that_they_may_be_repeated():
    service = Service(Code.UNAVAILABLE)
    async with through(service, Retry(Budget(1, 1000), limit=3)) as ask:
        assert (await ask(unary)).code() == Code.UNAVAILABLE
    assert len(service.calls) == 1


async def test_an_upload_is_repeated_from_its_first_message():
    service = Service(Code.UNAVAILABLE, "well")
    async with through(service, retry()) as ask:
        assert await ask(upload) == b"one two three"
    assert len(service.calls) == 2


async def test_a_stream_that_has_begun_is_not_repeated():
    def two(_, context):
        yield b"first"
        time.sleep(0.05)
        yield b"second"
        context.abort(Code.UNAVAILABLE, "broken off")

    service = Service(two)
    async with through(service, retry(limit=3)) as ask:
        assert await ask(download) == [b"first", b"second", Code.UNAVAILABLE]
    assert len(service.calls) == 1


async def test_pushback_is_waited_for():
    service = Service(pushback("150"), "well")
    async with through(service, retry()) as ask:
        assert await ask(unary) == b"hello"
    (first, _, _), (second, _, _) = service.calls
    assert second - first >= 0.145


@pytest.mark.parametrize("text", ["-1", "60000"])
async def test_pushback_that_says_no_or_later_than_one_waits_is_the_answer(text):
    service = Service(pushback(text))
    async with through(service, retry(limit=3)) as ask:
        error = await ask(unary)
        assert error.code() == Code.UNAVAILABLE
        assert ("grpc-retry-pushback-ms", text) in [tuple(pair) for pair in error.trailing_metadata()]
    assert len(service.calls) == 1


async def test_without_a_budget_there_are_no_retries():
    service = Service(Code.UNAVAILABLE)
    async with through(service, retry(budget=Budget(0, 0), limit=3)) as ask:
        assert (await ask(unary)).code() == Code.UNAVAILABLE
    assert len(service.calls) == 1


def sleeps(seconds: float, over: threading.Event | None = None):
    def step(request, context):
        ended = over or threading.Event()
        context.add_callback(ended.set)
        ended.wait(seconds)
        return request

    return step


async def test_a_try_is_told_what_is_left_of_the_deadline():
    def slowly_unavailable(_, context):
        time.sleep(0.3)
        context.abort(Code.UNAVAILABLE, "slowly")

    service = Service(slowly_unavailable, "well")
    async with through(service, Timeouts(request=2 * PATIENCE) | retry()) as ask:
        assert await ask(unary) == b"hello"
    (_, _, first), (_, _, second) = service.calls
    assert first <= PATIENCE
    assert second <= first - 0.25


async def test_the_calls_deadline_ends_it_and_its_server_hears_of_that():
    heard = threading.Event()
    service = Service("well", sleeps(PATIENCE, heard))
    async with through(service, Timeouts(request=60) | retry()) as ask:
        assert await ask(unary) == b"hello"  # all connections stand
        assert (await ask(lambda channel: unary(channel, TIMEOUT))).code() == Code.DEADLINE_EXCEEDED
        assert await trio.to_thread.run_sync(heard.wait, PATIENCE)
    assert len(service.calls) == 2


async def test_the_proxys_own_deadline_is_the_calls_too():
    service = Service("well", sleeps(PATIENCE))
    async with through(service, Timeouts(request=TIMEOUT) | retry()) as ask:
        assert await ask(unary) == b"hello"
        assert (await ask(unary)).code() == Code.DEADLINE_EXCEEDED
    assert all(left <= TIMEOUT for _, _, left in service.calls)
    assert len(service.calls) == 2


async def test_a_call_that_hangs_is_asked_again():
    service = Service("well", sleeps(PATIENCE), "well")
    async with through(service, Timeouts(request=PATIENCE) | retry(timeout=TIMEOUT)) as ask:
        assert await ask(unary) == b"hello"
        assert await ask(unary) == b"hello"
    assert len(service.calls) == 3
