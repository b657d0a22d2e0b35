"""``/logs.json``: the log while it is written, by directives, for many readers at once."""

import json
import logging

import pytest
import trio
import trio.testing

from linkerd_proxy.core.message import Request
from linkerd_proxy.errors import Overloaded
from linkerd_proxy.mesh.log_stream import BUFFER, MAX_STREAMS, stream_log
from linkerd_proxy.testing import call
from tests.patience import PATIENCE

LOG = logging.getLogger("linkerd_proxy")


@pytest.fixture(autouse=True)
def level():
    before = LOG.level
    LOG.setLevel(logging.DEBUG)
    yield
    LOG.setLevel(before)
    assert not LOG.handlers


async def read(request, write, count):
    """Open a stream, let something be written, and return that many lines."""
    found = []
    async with call(stream_log, request) as response:
        assert response.status == 200
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:

                async def pull():
                    while len(found) < count:
                        found.extend(json.loads(line) for line in (await response.body.pull()).splitlines() if line)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(pull)
                await trio.testing.wait_all_tasks_blocked()
                await write()
    return found


async def write_some():
    await trio.lowlevel.checkpoint()
    LOG.debug("quiet")
    logging.getLogger("linkerd_proxy.http").debug("of http")
    LOG.warning("loud")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ["quiet", "of http", "loud"]),
        ("warn", ["loud"]),
        ("off,linkerd_proxy.http=debug", ["of http"]),
        ("linkerd=info", ["loud"]),
    ],
)
@pytest.mark.parametrize("method", ["GET", "QUERY"])
async def test_lines_are_json_and_chosen_by_directives(text, told, method):
    request = (
        Request("GET", f"/logs.json?{text}") if method == "GET" else Request(method, "/logs.json", body=text.encode())
    )
    lines = await read(request, write_some, len(told))
    assert [line["fields"]["message"] for line in lines] == told
    assert all(line["level"] and line["timestamp"] and line["target"].startswith("linkerd_proxy") for line in lines)


async def test_lines_of_other_threads_arrive():
    async def write():
        await trio.to_thread.run_sync(LOG.warning, "from afar")

    (line,) = await read(Request("GET", "/logs.json"), write, 1)
    assert line["fields"]["message"] == "from afar"


async def test_a_slow_reader_is_told_what_it_lost():
    async def write():
        await trio.lowlevel.checkpoint()
        for number in range(BUFFER + 5):
            LOG.info("%d", number)

    lines = await read(Request("GET", "/logs.json"), write, BUFFER + 1)
    assert lines[-1] == {"dropped": 5}
    assert lines[0]["fields"]["message"] == "0"


async def test_there_may_be_many_but_not_any_number():
    async def hold(task_status):
        async with call(stream_log, Request("GET", "/logs.json")):
            task_status.started()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(MAX_STREAMS):
            await nursery.start(hold)
        with pytest.raises(Overloaded, match="16 streams"):
            async with call(stream_log, Request("GET", "/logs.json")):
                pass
        nursery.cancel_scope.cancel()
