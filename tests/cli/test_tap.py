"""``linkerd-proxy tap`` against a running proxy."""

import json

import pytest
import trio

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
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.admin import admin
from linkerd_proxy.metrics.tap import Tap
from linkerd_proxy.metrics.taps import current_taps


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

        nursery.start_soon(ask_admin, address, f"/tap?{query}", on_line)
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
        nursery.start_soon(ask_admin, admin_address, "/tap?limit=2", lines.append)
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
        await ask_admin(admin_address, f"/tap?{query}", print)
    assert f"answers 400: {problem}" in str(caught.value)


async def test_nobody_there_is_one_line_with_a_remedy():
    (listener,) = await open_listeners("127.0.0.1:0")
    await listener.aclose()
    with pytest.raises(InvalidConfiguration, match=r"no proxy answers at .*: start it with --admin"):
        await ask_admin(listener.address, "/tap", print)


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
