"""Header modifiers, failure injection and mirrors."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

import pytest
import trio
import trio.testing

from linkerd_proxy.core.attempt import close_attempt, current_attempt, open_attempt
from linkerd_proxy.core.message import EMPTY, Body, Request, Response, Streamed, Whole
from linkerd_proxy.core.notes import close_notes, current_notes, open_notes
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import GrpcStatus, Injected, InvalidConfiguration
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.handler import Handler, handler
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.route import Inject, Mirror, RequestHeaderModifier, ResponseHeaderModifier
from linkerd_proxy.testing import call, check_layer, memory_connection


def make() -> Exchange:
    async def respond(_: Response) -> None: ...

    return Exchange(Request("POST", "/", body=b"x"), respond, memory_connection()[1])


# --- headers --------------------------------------------------------------------------------------------------------

FIELDS = [("a", "1"), ("b", "2"), ("A", "3"), ("c", "4")]


async def test_request_headers_are_set_added_and_removed() -> None:
    seen: list[Headers] = []

    async def note(request: Request) -> Response:
        seen.append(request.headers)
        return Response()

    request = Request("GET", "/", FIELDS)
    modifier = RequestHeaderModifier(set={"A": "x"}, add={"b": "y", "d": "z"}, remove=["C", "nothing"])
    async with call(modifier | handler(note), request):
        pass
    assert list(seen[0]) == [("b", "2"), ("a", "x"), ("b", "y"), ("d", "z")]
    assert list(request.headers) == [(name.lower(), value) for name, value in FIELDS]


async def test_response_headers_are_changed_but_not_those_of_informational_ones() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.respond(Response(103, [("c", "hint")]))
        await exchange.respond(Response(304, FIELDS, declared_length=7, version="1.0"))

    layer = ResponseHeaderModifier(remove=["c"], set={"server": "none"})
    async with layer.open(answer) as service, call(service, Request()) as response:
        assert list(response.informational[0].headers) == [("c", "hint")]
        assert list(response.headers) == [("a", "1"), ("b", "2"), ("a", "3"), ("server", "none")]
        assert (response.status, response.declared_length, response.version) == (304, 7, "1.0")


@pytest.mark.parametrize("kind", [RequestHeaderModifier, ResponseHeaderModifier])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"set": {"Content-Length": "1"}}, "frames the message"),
        ({"add": {"transfer_encoding": "chunked"}}, "frames the message"),
        ({"remove": ["connection"]}, "frames the message"),
        ({"set": {"host": "a"}}, r"use Rewrite\(host=...\)"),
        ({"set": {"l5d-client-id": "me"}}, "speaks for the mesh"),
        ({"set": {"L5D_Client_Id": "me"}}, "speaks for the mesh"),
        ({"remove": ["l5d-client-id"]}, "speaks for the mesh"),
        ({"set": {"a b": "1"}}, "no header's name"),
        ({"set": {":path": "1"}}, "no header's name"),
        ({"add": {"a": "1\r\nb: 2"}}, "no header's value"),
        ({"add": {"a": " 1"}}, "no header's value"),
        ({"set": {"a": "1"}, "remove": ["A"]}, "a is in both set and remove"),
        ({"set": {"a": "1"}, "add": {"a": "1"}}, "a is in both set and add"),
    ],
)
def test_what_may_not_be_changed_is_refused(kind, options, text) -> None:
    with pytest.raises(InvalidConfiguration, match=text):
        kind(**options)


async def test_modifiers_are_layers() -> None:
    await check_layer(RequestHeaderModifier({"a": "1"}, {"b": "2"}, ["c"]), make)
    await check_layer(ResponseHeaderModifier({"a": "1"}, {"b": "2"}, ["c"]), make)


# --- failures on purpose --------------------------------------------------------------------------------------------


async def hello(_: Request) -> Response:
    return Response(200, body=b"hello")


async def status(stack, request: Request | None = None) -> int:
    async with call(stack, request or Request()) as response:
        return response.status


async def test_a_part_of_the_requests_fails_with_the_given_status() -> None:
    async with opened(Rescue() | Inject(0.25, 503, dice=Random(1)) | handler(hello)) as service:
        statuses = [await status(service) for _ in range(2000)]
    assert set(statuses) == {200, 503}
    assert statuses.count(503) / 2000 == pytest.approx(0.25, abs=0.03)


async def test_the_answer_says_that_it_was_injected() -> None:
    async with call(Rescue() | Inject(1, 418, message="try tea") | handler(hello), Request()) as response:
        assert (response.status, response.headers["l5d-proxy-error"]) == (418, "FI Inject: try tea")


@pytest.mark.parametrize(
    ("inject", "expected"), [(Inject(1, 503), "9"), (Inject(1, grpc_status=GrpcStatus.UNAVAILABLE), "14")]
)
async def test_grpc_callers_get_a_grpc_status(inject, expected) -> None:
    request = Request("POST", "/a/b", [("content-type", "application/grpc")], version="2")
    async with call(Rescue() | inject | handler(hello), request) as response:
        assert (response.status, response.headers["grpc-status"]) == (200, expected)


async def test_a_delay_alone_lets_the_request_pass(autojump_clock) -> None:
    assert await status(Inject(1, delay=2) | handler(hello)) == 200
    assert trio.current_time() == pytest.approx(2)


async def test_a_delay_comes_before_the_failure(autojump_clock) -> None:
    with pytest.raises(Injected):
        await status(Inject(1, 500, delay=2) | handler(hello))
    assert trio.current_time() == pytest.approx(2)


@pytest.mark.parametrize(
    "options", [{"ratio": 2}, {"ratio": -0.1}, {"ratio": 1}, {"ratio": 1, "status": 200}, {"ratio": 1, "delay": -1}]
)
def test_an_injection_that_can_not_be_is_refused(options) -> None:
    with pytest.raises(InvalidConfiguration, match="Inject"):
        Inject(**options)


async def test_injection_is_a_layer() -> None:
    await check_layer(Inject(0, 503, delay=1.5, message="m"), make)


# --- mirrors --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leaf(Stack[Exchange]):
    service: Service[Exchange]

    @asynccontextmanager
    async def open(self):
        yield self.service


class Shadow:
    """Where copies go."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds = seconds
        self.got: list[tuple[str, bytes, Headers | None]] = []

    async def __call__(self, request: Request) -> Response:
        await trio.sleep(self.seconds)
        data = await request.body.read()
        self.got.append((f"{request.method} {request.path} {request.headers.get('x')}", data, request.body.trailers))

        async def chunks() -> AsyncIterator[bytes]:
            yield b"dropped"

        return Response(500, body=Streamed(chunks()))


def results() -> dict[str, float]:
    names = ("sent", "failed", "timeout", "dropped", "too_large", "incomplete")
    counted = {name: current_registry().counter("mirror_requests_total", "", result=name).value for name in names}
    return {name: value for name, value in counted.items() if value}


async def reading(request: Request) -> Response:
    return Response(200, body=await request.body.read())


def stream(*chunks: bytes, trailers: Headers | None = None) -> Body:
    async def give() -> AsyncIterator[bytes]:
        for chunk in chunks:
            await trio.sleep(0.1)
            yield chunk
        body.trailers = trailers

    body = Streamed(give())
    return body


async def asked(service, request: Request) -> bytes:
    async with call(service, request) as response:
        assert response.status == 200
        return await response.body.read()


async def test_a_copy_goes_to_the_other_backend_and_its_answer_nowhere(autojump_clock) -> None:
    shadow = Shadow()
    async with opened(Mirror(Handler(shadow)) | handler(reading)) as service:
        assert await asked(service, Request("POST", "/a?b", [("x", "1")], b"whole")) == b"whole"
        trailers = Headers([("t", "1")])
        assert (
            await asked(service, Request("PUT", "/c", body=stream(b"st", b"re", b"am", trailers=trailers))) == b"stream"
        )
        assert await asked(service, Request()) == b""
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(shadow.got, key=lambda copy: copy[0]) == [
            ("GET / None", b"", None),
            ("POST /a?b 1", b"whole", None),
            ("PUT /c None", b"stream", trailers),
        ]
        assert results() == {"sent": 3}


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_a_copy_has_no_body_where_the_original_has_none(version, autojump_clock) -> None:
    bodies = []

    async def shadow(request: Request) -> Response:
        bodies.append(request.body)
        return Response()

    async with opened(Mirror(Handler(shadow)) | handler(reading)) as service:
        await asked(service, Request(version=version))
        await asked(service, Request("POST", body=Whole(), version=version))
        await trio.testing.wait_all_tasks_blocked()
    assert [body is EMPTY for body in bodies] == [True, False]


async def test_the_original_waits_for_no_copy(autojump_clock) -> None:
    async with opened(Mirror(Handler(Shadow(seconds=5)), in_flight=2) | handler(reading)) as service:
        for _ in range(4):
            assert await asked(service, Request("POST", body=b"x")) == b"x"
        assert trio.current_time() == 0
        assert results() == {"dropped": 2}
        await trio.sleep(6)
        assert results() == {"dropped": 2, "sent": 2}
        await asked(service, Request())
        await trio.sleep(6)
        assert results() == {"dropped": 2, "sent": 3}


async def test_a_copy_has_a_deadline_and_its_failures_are_its_own(autojump_clock) -> None:
    async def fail(_: Request) -> Response:
        raise ValueError("broken")

    async with opened(
        Mirror(Handler(Shadow(seconds=99)), timeout=3) | Mirror(Handler(fail)) | handler(reading)
    ) as service:
        assert await asked(service, Request()) == b""
        await trio.sleep(4)
        assert results() == {"timeout": 1, "failed": 1}


async def test_bodies_over_the_limit_pass_without_a_copy(autojump_clock) -> None:
    shadow = Shadow()
    async with opened(Mirror(Handler(shadow), limit=4, in_flight=1) | handler(reading)) as service:
        assert await asked(service, Request("POST", body=b"12345")) == b"12345"
        assert await asked(service, Request("POST", body=stream(b"123", b"45"))) == b"12345"
        assert results() == {"too_large": 2}
        assert await asked(service, Request("POST", body=stream(b"12", b"34"))) == b"1234"
        await trio.testing.wait_all_tasks_blocked()
        assert [data for _, data, _ in shadow.got] == [b"1234"]


async def test_a_body_that_nobody_reads_to_its_end_makes_no_copy(autojump_clock) -> None:
    shadow = Shadow()
    async with opened(Mirror(Handler(shadow), in_flight=1) | handler(hello)) as service:
        for _ in range(3):
            assert await asked(service, Request("POST", body=stream(b"12"))) == b"hello"
    assert shadow.got == []
    assert results() == {"incomplete": 3}


async def test_tunnels_are_not_copied() -> None:
    shadow = Shadow()
    async with opened(Mirror(Handler(shadow)) | handler(hello)) as service, call(service, Request(upgrade="websocket")):
        pass
    assert shadow.got == []


async def test_a_part_of_the_requests_is_copied(autojump_clock) -> None:
    shadow = Shadow()
    async with opened(Mirror(Handler(shadow), ratio=0.2, dice=Random(3)) | handler(reading)) as service:
        for _ in range(500):
            await asked(service, Request())
            await trio.testing.wait_all_tasks_blocked()
    assert len(shadow.got) == pytest.approx(100, abs=25)


async def test_copies_on_their_way_end_with_the_stack(autojump_clock) -> None:
    async with opened(Mirror(Handler(Shadow(seconds=99))) | handler(reading)) as service:
        await asked(service, Request())
    assert trio.current_time() == 0


async def test_a_copy_holds_no_clients_stream(autojump_clock) -> None:
    kept: list[Exchange] = []

    async def keep(exchange: Exchange) -> None:
        kept.append(exchange)
        await exchange.respond(Response())

    connection = memory_connection()[1]
    async with (
        opened(Mirror(Leaf(keep)) | handler(reading)) as service,
        call(service, Request(), connection=connection),
    ):
        await trio.testing.wait_all_tasks_blocked()
    (copy,) = kept
    assert copy.connection.peer == connection.peer
    assert copy.connection.stream is not connection.stream
    for use in (
        copy.connection.stream.receive_some,
        copy.connection.stream.send_eof,
        copy.connection.stream.wait_send_all_might_not_block,
        lambda: copy.connection.stream.send_all(b""),
    ):
        with pytest.raises(trio.ClosedResourceError):
            await use()
    await copy.connection.stream.aclose()


async def test_a_copy_leaves_no_notes_on_the_original(autojump_clock) -> None:
    async def scribble(exchange: Exchange) -> None:
        notes = current_notes()
        if notes is not None:
            notes.backend = "10.0.0.9:80"
        assert current_attempt() is None
        await exchange.respond(Response())

    async with opened(Mirror(Leaf(scribble)) | handler(reading)) as service:
        notes, token = open_notes()
        attempt = open_attempt()[1]
        async with call(service, Request()):
            await trio.testing.wait_all_tasks_blocked()
        close_attempt(attempt)
        close_notes(notes, token)
    assert results() == {"sent": 1}
    assert notes.backend == ""


async def test_a_mirror_is_a_layer() -> None:
    await check_layer(Mirror(handler(hello), 0.0, in_flight=3, limit=5, timeout=2), make)
    await check_layer(Mirror(handler(hello)), make)


@pytest.mark.parametrize("options", [{"ratio": 2}, {"in_flight": 0}, {"limit": -1}, {"timeout": 0}])
def test_a_mirror_that_can_not_be_is_refused(options) -> None:
    with pytest.raises(InvalidConfiguration, match="Mirror"):
        Mirror(handler(hello), **options)
