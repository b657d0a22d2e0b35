"""However an exchange ended, the metric, the log line, the span and the tap give it the same code."""

import json
from contextlib import asynccontextmanager, suppress

import pytest
import trio.lowlevel

from linkerd_proxy.core.codes import code_in, code_of
from linkerd_proxy.core.message import Request, Response, Streamed, Whole
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import ConnectFailed, NotAnswered, UpstreamReset
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.handler import Handler
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.metrics.accesslog import AccessLog
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.metrics.span_export import Otlp
from linkerd_proxy.metrics.tap import Tap
from linkerd_proxy.metrics.tap_match import Match
from linkerd_proxy.metrics.taps import current_taps
from linkerd_proxy.metrics.tracing import Trace
from linkerd_proxy.retry import Retry
from linkerd_proxy.testing import memory_connection
from tests.metrics.test_tracing import SAMPLED, Collector, attributes

GRPC = ("content-type", "application/grpc")
PLAIN = Request(headers=[SAMPLED])
CALL = Request("POST", "/a.B/C", [GRPC, SAMPLED], version="2")


async def reported(tmp_path, inner, request):
    """Serve an exchange inside all who report, and return the codes that each of them reported."""
    path, collector = tmp_path / "log", Collector()

    async def respond(response):
        await response.body.read()

    stack = AccessLog(to=str(path), format="json") | Trace(Otlp(collector)) | Tap() | Metrics() | inner
    async with opened(stack) as service:
        with current_taps().open(Match()) as tap:
            with suppress(ConnectFailed):
                await service(Exchange(request, respond, memory_connection()[1]))
            events = await tap.receive()
    current_registry().collect()
    counted = [
        dict(labels)["error"]
        for family in current_registry()
        if family.name == "response_total"
        for labels, series in family.series.items()
        if series.value
    ]
    spans = [attributes(span).get("error.type", "") for span in collector.spans]
    return [*counted, json.loads(path.read_text()).get("error", ""), *spans, events[-1].error]


@Handler
async def refused(_):
    raise ConnectFailed("refused")


@Handler
async def farther(_):
    return Response(502, [("l5d-proxy-error", "UF refused, says the proxy before the server")])


@Handler
async def chosen(_):
    return Response(502, [("l5d-proxy-error", "chosen by a peer")])


@Handler
async def half(_):
    async def chunks():
        yield b"half"
        raise UpstreamReset("gone")

    return Response(200, [GRPC], Streamed(chunks()))


class Silent(Stack[Exchange]):
    @asynccontextmanager
    async def open(self):
        async def service(_):
            await trio.lowlevel.checkpoint()

        yield service


@pytest.mark.parametrize(
    ("inner", "request_", "code"),
    [
        (refused, PLAIN, "UF"),
        (Rescue() | refused, PLAIN, "UF"),
        (Rescue() | refused, CALL, "UF"),
        (farther, PLAIN, "UF"),
        (Rescue() | half, CALL, "UR"),
        (Silent(), PLAIN, "NA"),
        (Rescue() | Silent(), PLAIN, "NA"),
    ],
)
async def test_all_who_report_say_the_same(inner, request_, code, tmp_path, autojump_clock):
    assert await reported(tmp_path, inner, request_) == [code] * 4


async def test_what_no_proxy_of_ours_said_is_no_code(tmp_path, autojump_clock):
    assert await reported(tmp_path, chosen, PLAIN) == ["", "", "502", ""]  # a span has to give a type


async def test_the_failure_of_a_try_is_not_that_of_the_exchange(tmp_path, autojump_clock):
    answers = iter([ConnectFailed("refused"), Response(200)])

    @Handler
    async def second(_):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await reported(tmp_path, Retry() | Rescue() | second, PLAIN) == [""] * 4


def test_codes():
    assert [code_of(error) for error in (ConnectFailed("x"), ConnectionResetError(), ValueError())] == [
        "UF",
        "IO",
        "BUG",
    ]
    assert code_in(None) == NotAnswered.code
    assert code_in(Response(200)) == ""
    trailers = Headers([("l5d-proxy-error", "UF refused")])
    assert code_in(Response(200, (), Whole(b"half", trailers))) == "UF"
    assert code_in(Response(200, [("l5d-proxy-error", "RL too often")], Whole(b"half", trailers))) == "RL"
