import gzip
import json
import logging
import re

import pytest
import trio
import trio.testing

from linkerd_proxy.address import Address
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.message import Request
from linkerd_proxy.core.own import own_connection
from linkerd_proxy.core.serve import serve
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.errors import Overloaded
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.handler import handler
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.io.dial import dial
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.admin import admin
from linkerd_proxy.mesh.live_page import Live
from linkerd_proxy.mesh.log_level import apply_log_level
from linkerd_proxy.mesh.reverse import reverse_proxy
from linkerd_proxy.metrics.accesslog import AccessLog
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.metrics.registry import Registry, current_registry
from linkerd_proxy.metrics.tap import Tap
from linkerd_proxy.retry.timeout import Timeout
from linkerd_proxy.route.route import Route
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.testing import call, memory_connection


@pytest.fixture
async def ask(nursery):
    """Serve an admin endpoint and return a function that asks it."""

    async def start(*arguments, **options):
        listeners = await open_listeners("127.0.0.1:0")
        await nursery.start(
            lambda *, task_status: serve(admin(*arguments, **options), listeners, task_status=task_status)
        )

        async def ask(path, method="GET", fields=""):
            async with await dial(listeners[0].address) as stream:
                request = f"{method} {path} HTTP/1.0\r\nhost: localhost\r\n{fields}\r\n"
                await stream.send_all(request.encode())
                data = b""
                while chunk := await stream.receive_some():
                    data += chunk
            head, _, body = data.partition(b"\r\n\r\n")
            return int(head.split()[1]), head.decode().lower(), body

        return ask

    return start


async def test_live_and_ready(ask):
    drain = Drain()
    ready = False
    get = await ask(drain, ready=lambda: ready)
    assert (await get("/live"))[::2] == (200, b"live\n")
    assert (await get("/ready"))[::2] == (503, b"not ready\n")
    ready = True
    assert (await get("/ready?verbose"))[::2] == (200, b"ready\n")
    drain.start()
    assert (await get("/ready"))[::2] == (503, b"draining\n")
    assert (await get("/live"))[0] == 200


async def test_metrics_of_this_run(ask):
    current_registry().counter("things_total", "Things").value = 3
    get = await ask(Drain())
    status, head, body = await get("/metrics")
    assert status == 200
    assert "content-type: text/plain; version=0.0.4" in head
    assert b"\nthings_total 3\n" in body


async def test_metrics_compressed_and_as_openmetrics(ask):
    current_registry().counter("things_total", "Things").value = 3
    get = await ask(Drain())
    fields = "accept: application/openmetrics-text;version=1.0.0\r\naccept-encoding: gzip\r\n"
    _, head, body = await get("/metrics", fields=fields)
    assert "content-type: application/openmetrics-text; version=1.0.0" in head
    assert "content-encoding: gzip" in head
    assert "vary: accept, accept-encoding" in head
    assert gzip.decompress(body).endswith(b"# EOF\n")


async def test_metrics_as_protobuf_where_native_histograms_are_asked_for(ask):
    current_registry().histogram("things_ms", "Things").record(3)
    get = await ask(Drain())
    kind = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
    _, head, body = await get("/metrics", fields=f"accept: {kind},text/plain;q=0.5\r\n")
    assert "content-type: application/vnd.google.protobuf" in head
    assert b"things_ms" in body


async def test_metrics_of_another_registry(ask):
    other = Registry()
    other.gauge("elsewhere", "").value = 1

    async def fetch():
        await trio.lowlevel.checkpoint()
        return other

    get = await ask(Drain(), registry=fetch)
    assert (await get("/metrics"))[2].endswith(b"elsewhere 1\n")


async def test_the_configuration_is_the_tree(ask):
    proxy = reverse_proxy(["127.0.0.1:9000"])
    get = await ask(Drain(), proxy)
    assert (await get("/config"))[2].decode() == f"{proxy}\n"


async def test_what_it_does_not_have_is_a_list_of_what_it_has(ask):
    get = await ask(Drain())
    for path in ("/", "/metrics/", "/shutdown"):
        status, _, body = await get(path)
        assert status == 404
        assert [line.split()[0] for line in body.decode().splitlines()] == [
            "/live", "/ready", "/metrics", "/config", "/env.json", "/proxy-log-level", "/events", "/logs.json",
            "/tasks", "/tap",
        ]  # fmt: skip


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_nothing_can_be_changed(ask, method):
    get = await ask(Drain())
    status, head, _ = await get("/ready", method, "content-length: 0\r\n")
    assert status == 405
    assert "allow: get, head" in head


async def test_head_is_get_without_the_body(ask):
    get = await ask(Drain())
    status, _, body = await get("/metrics", "HEAD")
    assert (status, body) == (200, b"")


async def test_a_failure_to_fetch_metrics_is_an_answer(ask):
    async def fail():
        raise OSError("no workers")

    get = await ask(Drain(), registry=fail)
    assert (await get("/metrics"))[0] in {500, 502}


async def test_the_configuration_as_json(ask):
    get = await ask(Drain(), reverse_proxy(["127.0.0.1:9000"]))
    status, head, body = await get("/config", fields="accept: application/json\r\n")
    assert (status, "application/json" in head) == (200, True)
    (detect,) = json.loads(body)
    assert detect["stack"] == "Detect()"
    assert set(detect["branches"]) == {"http", "otherwise"}
    assert detect["branches"]["otherwise"][-1] == {"stack": "Connect('127.0.0.1:9000')"}


async def test_the_environment_is_ours_alone_and_keeps_secrets(ask, monkeypatch):
    monkeypatch.setenv("LINKERD2_PROXY_LOG", "info")
    monkeypatch.setenv("LINKERD2_PROXY_TEST_TOKEN", "hush")
    monkeypatch.setenv("LINKERD2_PROXY_IDENTITY_TOKEN_FILE", "/token")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://me:hush@collector:4318/a@b")
    monkeypatch.setenv("AWS_THING", "hush")
    get = await ask(Drain())
    status, _, body = await get("/env.json")
    found = json.loads(body)
    assert status == 200
    assert found["LINKERD2_PROXY_LOG"] == "info"
    assert found["LINKERD2_PROXY_IDENTITY_TOKEN_FILE"] == "/token"
    assert found["OTEL_EXPORTER_OTLP_ENDPOINT"] == "https://(redacted)@collector:4318/a@b"
    assert b"hush" not in body
    assert "AWS_THING" not in found
    _, _, some = await get("/env.json?LINKERD2_PROXY_LOG&AWS_THING")
    assert json.loads(some) == {"LINKERD2_PROXY_LOG": "info", "AWS_THING": None}
    assert (await get("/env.json", fields="accept: text/html\r\n"))[0] == 406


@pytest.fixture
def levels():
    yield
    apply_log_level("warn")
    logging.getLogger("linkerd_proxy").setLevel(logging.NOTSET)


async def test_the_log_level_is_shown_and_changed(ask, levels):
    get = await ask(Drain())
    put = "content-length: {}\r\n\r\n{}"
    for text in ("debug", "warn,linkerd_proxy.http=debug"):
        assert (await get("/proxy-log-level", "PUT", put.format(len(text), text)))[0] == 204
        assert (await get("/proxy-log-level"))[2].decode() == f"{text}\n"
    assert logging.getLogger("linkerd_proxy.http").getEffectiveLevel() == logging.DEBUG
    status, _, body = await get("/proxy-log-level", "PUT", put.format(4, "loud"))
    assert (status, b"names no log level" in body) == (400, True)
    assert (await get("/proxy-log-level"))[2] == b"warn,linkerd_proxy.http=debug\n"
    assert (await get("/proxy-log-level", "PUT", put.format(4, "info")))[0] == 204
    assert logging.getLogger("linkerd_proxy.http").getEffectiveLevel() == logging.INFO


async def test_shutdown_is_off_unless_asked_for_and_a_post(ask):
    drain = Drain()
    assert (await (await ask(drain))("/shutdown", "POST", "content-length: 0\r\n"))[0] == 404
    get = await ask(drain, shutdown=True)
    assert (await get("/shutdown"))[0] == 405
    assert not drain.draining
    assert (await get("/shutdown", "POST", "content-length: 0\r\n"))[0] == 200
    assert drain.draining


async def test_what_changes_or_shows_the_inside_is_for_this_host_alone():
    far = Connection(memory_connection()[0], Address("192.0.2.1", 1), Address("192.0.2.2", 4191))
    async with opened(admin(Drain(), shutdown=True).end) as service:
        for method, path, expected in (
            ("GET", "/live", 200),
            ("GET", "/tasks", 403),
            ("GET", "/tap", 403),
            ("PUT", "/proxy-log-level", 403),
            ("POST", "/shutdown", 403),
        ):
            async with call(service, Request(method, path), connection=far) as response:
                assert response.status == expected, path


async def test_the_tasks_show_the_layers_that_a_stuck_request_is_in(ask, nursery):
    @handler
    async def stuck(request):
        await trio.sleep_forever()

    async def ask_for_ever(service):
        async with call(service, Request("GET", "/")):
            pass

    async with opened(Timeout(77) | stuck) as service:
        nursery.start_soon(ask_for_ever, service, name="the stuck one")
        await trio.testing.wait_all_tasks_blocked()
        status, _, body = await (await ask(Drain()))("/tasks")
        nursery.cancel_scope.cancel()
    text = body.decode()
    assert status == 200
    assert "the stuck one" in text
    shown = text.partition("the stuck one")[2]
    assert shown.index("in Timeout") < shown.index("in Handler") < shown.index(" stuck\n")


async def test_each_layer_of_a_stuck_request_is_there_with_its_settings(ask, nursery):
    begun = trio.Event()

    async def never(connection):
        begun.set()
        await trio.sleep_forever()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, never, listeners)
    port = listeners[0].socket.getsockname()[1]
    kept = Metrics({"route": "kept"}) | Tap({"place": "in"}) | Client() | Connect(f"127.0.0.1:{port}")
    other = Metrics({"route": "other"}) | Client() | Connect("127.0.0.1:1")
    stack = AccessLog("json") | Metrics({"direction": "in"}) | Rescue() | Route({"/kept": kept, "/": other})

    async def ask_for_ever(service):
        async with call(service, Request("GET", "/kept")):
            pass

    async with opened(stack) as service:
        nursery.start_soon(ask_for_ever, service, name="the stuck one")
        await begun.wait()
        _, _, body = await (await ask(Drain()))("/tasks")
        nursery.cancel_scope.cancel()
    shown = body.decode().partition("the stuck one")[2]
    assert re.findall(r"^ *in (.*)$", shown, re.MULTILINE)[:5] == [
        "AccessLog(format='json')",
        "Metrics({'direction': 'in'})",
        "Rescue()",
        "Metrics({'route': 'kept'})",
        "Client()",
    ]
    assert "other" not in shown


@pytest.mark.parametrize("fields", ["origin: http://evil.example\r\n", "sec-fetch-site: cross-site\r\n"])
async def test_a_web_page_can_change_nothing(ask, fields):
    drain = Drain()
    get = await ask(drain, shutdown=True)
    assert (await get("/shutdown", "POST", f"{fields}content-length: 0\r\n"))[0] == 403
    assert (await get("/tasks", fields=fields))[0] == 403
    assert not drain.draining


@pytest.mark.parametrize(
    ("authority", "status"),
    [("127.0.0.1:4191", 200), ("[::1]:4191", 200), ("localhost", 200), ("rebound.example", 403), ("a:4191", 403)],
)
async def test_a_name_that_leads_to_the_loopback_is_no_way_in(authority, status):
    near = Connection(memory_connection()[0], Address("127.0.0.1", 1), Address("127.0.0.1", 4191))
    request = Request("GET", "/tasks", authority=authority)
    async with opened(admin(Drain()).end) as service, call(service, request, connection=near) as response:
        assert response.status == status


async def test_a_browser_gets_the_page_which_loads_nothing_from_elsewhere(ask):
    get = await ask(Drain())
    status, head, body = await get("/", fields="accept: text/html,*/*\r\n")
    assert status == 200
    assert "content-security-policy: default-src 'none'; script-src 'sha256-" in head
    assert not re.findall(rb"(?:src|href)=\"(?!#)", body)
    assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")


async def test_viewers_are_few():
    live = Live("web", current)
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(look, live)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Overloaded, match="8 viewers look already"):
            await look(live)
        nursery.cancel_scope.cancel()


async def current():
    return current_registry()


async def look(live):
    async def respond(response):
        async for _ in response.body:
            pass

    await live.stream(Exchange(Request("GET", "/events"), respond, own_connection()))
