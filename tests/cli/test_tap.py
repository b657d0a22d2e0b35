"""``linkerd-proxy tap`` against a running proxy."""

import json
import signal

import pytest
import trio

from linkerd_proxy.address import Address
from linkerd_proxy.cli.asking import ask_admin
from linkerd_proxy.cli.tap import _shown
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.own import own_connection
from linkerd_proxy.core.serve import serve
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.handler import handler
from linkerd_proxy.http.server import Http
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.admin import admin
from linkerd_proxy.metrics.tap import Tap
from linkerd_proxy.metrics.taps import current_taps
from tests.ports import held_port

NDJSON = "application/x-ndjson"


@handler
async def hello(request):
    return Response(200, body=b"hello")


@pytest.fixture
async def admin_address(nursery):
    listeners = await open_listeners("127.0.0.1:0")
    await nursery.start(lambda *, task_status: serve(admin(Drain()), listeners, task_status=task_status))
    return listeners[0].address


async def tapped(address, query, requests, count):
    """Tap, make the requests, and return ``count`` lines."""
    lines = []
    async with opened(Tap() | hello) as service, trio.open_nursery() as nursery:
        done = trio.Event()

        def on_line(line):
            if line:
                lines.append(json.loads(line))
            if len(lines) == count:
                done.set()

        nursery.start_soon(ask_admin, address, f"/tap?{query}", NDJSON, on_line)
        while not current_taps().active:
            await trio.lowlevel.checkpoint()
        for request in requests:

            async def respond(response):
                await response.body.read()

            await service(Exchange(request, respond, own_connection()))
        await done.wait()
        nursery.cancel_scope.cancel()
    return lines


async def test_events_arrive_as_they_happen(admin_address):
    lines = await tapped(admin_address, "path=/yes", [Request("GET", "/no"), Request("GET", "/yes?q=1")], 3)
    assert [line["event"] for line in lines] == ["request", "response", "end"]
    assert lines[0]["path"] == "/yes?q=1"


async def test_a_limit_ends_the_stream_after_what_it_took_has_ended(admin_address):
    lines = []
    async with opened(Tap() | hello) as service, trio.open_nursery() as nursery:
        nursery.start_soon(ask_admin, admin_address, "/tap?limit=2", NDJSON, lines.append)
        while not current_taps().active:
            await trio.lowlevel.checkpoint()

        async def respond(response):
            await response.body.read()

        for _ in range(5):
            await service(Exchange(Request("GET", "/"), respond, own_connection()))
    assert [json.loads(line)["event"] for line in lines if line] == ["request", "response", "end"] * 2
    assert current_taps().active == []


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("nonsense=1", "'nonsense' is nothing that a tap can look for"),
        ("source=here", "'here' is no network"),
        ("limit=many", "the tap's limit is 'many': give a number"),
        ("limit=0", "a tap's limit is 0"),
        ("label=x", "the label 'x' has no value"),
    ],
)
async def test_a_query_that_means_nothing_is_told(admin_address, query, problem):
    with pytest.raises(InvalidConfiguration) as caught:
        await ask_admin(admin_address, f"/tap?{query}", NDJSON, print)
    assert f"answers 400: {problem}" in str(caught.value)


async def test_nobody_there_is_one_line_with_a_remedy():
    with (
        held_port() as port,
        pytest.raises(InvalidConfiguration, match=r"no proxy answers at .*: start it with --admin"),
    ):
        await ask_admin(Address("127.0.0.1", port), "/tap", NDJSON, print)


def test_a_line_is_for_people_and_peers_cannot_write_on_the_terminal():
    event = {
        "event": "request",
        "id": 1,
        "source": "10.0.0.1:2",
        "client_id": "",
        "path": "/\x1b[31m",
        "headers": [["a", "b c"]],
    }
    assert _shown(dict(event)) == 'request  id=1 source=10.0.0.1:2 path=/\\x1b[31m\n         a: "b c"'
    assert (
        _shown({"event": "response", "id": 1, "status": 200, "after": 0.0123})
        == "response id=1 status=200 after=12.3ms"
    )
    assert "3 events dropped" in _shown({"event": "dropped", "count": 3})


@pytest.mark.parametrize("words", [("tap",), ("top", "--plain")])
async def test_control_c_ends_it_without_a_traceback(admin_address, command, words):
    async with command(*words, "--admin", str(admin_address)) as looking:
        await _wait_until_asked(looking, admin_address, words)
        looking.signal(signal.SIGINT)
        assert await looking.ended() == 130
    assert looking.errors == ""


async def _wait_until_asked(looking, address, words):
    if words[0] == "top":
        await looking.line(", up ")
        return
    while not current_taps().active:
        await trio.lowlevel.checkpoint()
    # Something that it prints shows that it has the answer and waits for more.
    async with opened(Tap() | hello) as service:
        await service(Exchange(Request("GET", "/"), _read, own_connection()))
    await looking.line("^end ")


async def _read(response):
    await response.body.read()


@pytest.mark.parametrize("words", [("tap",), ("tap", "--json"), ("top", "--once")])
async def test_what_is_no_admin_endpoint_is_told(nursery, run_command, words):
    listeners = await open_listeners("127.0.0.1:0")
    await nursery.start(lambda *, task_status: serve(Http() | hello, listeners, task_status=task_status))
    looking = await run_command(*words, "--admin", str(listeners[0].address))
    assert (looking.status, looking.output) == (2, "")
    assert looking.errors == (
        f"linkerd-proxy: {listeners[0].address} is no proxy's admin endpoint: give what it says after "
        '"admin on" when it starts\n'
    )
