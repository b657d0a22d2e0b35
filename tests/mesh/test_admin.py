import gzip

import pytest
import trio

from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.serve import serve
from linkerd_proxy.io.dial import dial
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.mesh.admin import admin
from linkerd_proxy.mesh.reverse import reverse_proxy
from linkerd_proxy.metrics.registry import Registry, current_registry


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
                request = f"{method} {path} HTTP/1.0\r\nhost: x\r\n{fields}\r\n"
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
    assert (await get("/ready"))[::2] == (503, b"starting\n")
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
        assert [line.split()[0] for line in body.decode().splitlines()] == ["/live", "/ready", "/metrics", "/config"]


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
