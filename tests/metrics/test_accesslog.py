"""Access logs: a line for each exchange, which tells all and lets nobody write another one."""

import json
import os
import pathlib
import sys

import pytest
import trio
import trio.lowlevel
import trio.testing

from linkerd_proxy.address import Address
from linkerd_proxy.core.message import Request, Response, Streamed
from linkerd_proxy.core.notes import current_notes, open_notes
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Exchange, Tls
from linkerd_proxy.errors import ConnectFailed, InvalidConfiguration
from linkerd_proxy.http.handler import Handler
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.metrics.accesslog import AccessLog
from linkerd_proxy.metrics.log_record import REDACTED, Record, formatter, redacted
from linkerd_proxy.metrics.log_writer import LogWriter
from linkerd_proxy.metrics.registry import Registry, current_registry
from linkerd_proxy.retry import Retry
from linkerd_proxy.route import Route
from linkerd_proxy.testing import call, check_layer, memory_connection
from tests.patience import PATIENCE

SECRETS = frozenset(REDACTED)
RECORD = Record(
    client="10.0.0.1:5000",
    identity="web.prod",
    time=1_700_000_000.25,
    method="GET",
    authority="shop.test",
    path="/a?b=c",
    version="1.1",
    user_agent='curl "8"',
    referer="",
    status=200,
    request_bytes=1,
    response_bytes=2,
    total=0.5,
    processing=0.25,
    route="/a",
    backend="10.0.0.9:80",
    retries=1,
    failure="",
    trace_id="abc",
)


async def nobody(_):
    await trio.lowlevel.checkpoint()


async def logged(tmp_path, stack, request=None, form="json", connection=None):
    """Ask a stack, and return the line that it left."""
    path = tmp_path / "access.log"
    async with call(AccessLog(form, to=str(path)) | stack, request or Request(), connection=connection) as response:
        await response.body.read()
    return path.read_text()


async def test_a_layer_as_any_other(tmp_path):
    layer = AccessLog("combined", to=str(tmp_path / "log"), queue=5, redact=("x",))
    await check_layer(layer, lambda: Exchange(Request(), nobody, memory_connection()[1]))


async def test_a_line_tells_all_that_is_known(tmp_path, autojump_clock):
    async def upstream(request):
        await request.body.read()
        await trio.sleep(0.25)

        async def chunks():
            yield b"two"
            await trio.sleep(0.5)
            yield b"more"

        return Response(201, body=Streamed(chunks()))

    async def upload():
        yield b"12345"

    headers = [("user-agent", "test/1"), ("x-request-id", "r-1")]
    request = Request("POST", "/api/x?y=1", headers, Streamed(upload()), authority="shop.test")
    _, connection = memory_connection(peer=Address("192.0.2.1", 999), tls=Tls(peer_identity="web.prod"))
    connection.original_dst = Address("10.0.0.9", 80)
    line = await logged(tmp_path, Route({"/api": Handler(upstream)}), request, connection=connection)
    seen = json.loads(line)
    assert seen.pop("timestamp").startswith("20")
    assert seen == {
        "client.addr": "192.0.2.1:999",
        "client.id": "web.prod",
        "method": "POST",
        "uri": "/api/x?y=1",
        "version": "HTTP/1.1",
        "trace_id": "r-1",
        "request_bytes": 5,
        "status": 201,
        "response_bytes": 7,
        "total_ns": 750_000_000,
        "processing_ns": 250_000_000,
        "user_agent": "test/1",
        "host": "shop.test",
        "route": "/api",
        "backend": "",
        "retries": 0,
        "error": "",
    }


async def test_retries_and_the_failure_they_ended_in_are_told(tmp_path, autojump_clock):
    async def fails(_):
        raise ConnectFailed("refused")

    form = "{status} {retries} {failure} {route}"
    line = await logged(tmp_path, Rescue() | Retry(limit=2) | Handler(fails), form=form)
    assert line == "502 2 UF -\n"


async def test_a_failure_that_nobody_rescued_has_no_status(tmp_path):
    async def fails(_):
        raise ConnectFailed("refused")

    with pytest.raises(ConnectFailed):
        await logged(tmp_path, Handler(fails))
    seen = json.loads((tmp_path / "access.log").read_text())
    assert (seen["status"], seen["error"]) == (0, "UF")


async def test_a_client_that_went_away_is_a_cancel(tmp_path, autojump_clock):
    async def slow(_):
        await trio.sleep_forever()

    async with opened(AccessLog("{status} {failure} {total}", to=str(tmp_path / "log")) | Handler(slow)) as service:
        with trio.move_on_after(2):
            await service(Exchange(Request(), nobody, memory_connection()[1]))
    assert (tmp_path / "log").read_text() == "0 CANCEL 2.000000\n"


async def test_notes_end_with_their_exchange(tmp_path):
    seen = []

    async def look(_):
        seen.append(current_notes())
        return Response()

    await logged(tmp_path, AccessLog(to=str(tmp_path / "inner")) | Handler(look))
    assert seen[0].over
    assert current_notes() is None
    notes, token = open_notes()
    notes.over = True
    assert open_notes()[0] is not notes  # a task that outlived them finds them closed
    assert token is not None


# --- formats -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("apache", '10.0.0.1:5000 web.prod - [14/Nov/2023:22:13:20 +0000] "GET /a?b=c HTTP/1.1" 200 2'),
        (
            "combined",
            '10.0.0.1:5000 web.prod - [14/Nov/2023:22:13:20 +0000] "GET /a?b=c HTTP/1.1" 200 2 "-" "curl \\"8\\""',
        ),
        ("{time} {client}", "2023-11-14T22:13:20.250000Z 10.0.0.1:5000"),
        ("{total}s/{processing}s {backend} {retries}x [{failure}]", "0.500000s/0.250000s 10.0.0.9:80 1x [-]"),
    ],
)
def test_formats(form, line):
    assert formatter(form)(RECORD) == line


def test_structlogs_keys_are_there():
    seen = json.loads(formatter("structlog")(RECORD))
    assert (seen["event"], seen["level"], seen["timestamp"]) == ("request", "info", "2023-11-14T22:13:20.250000Z")


@pytest.mark.parametrize(
    ("form", "problem"), [("plain", "text with fields"), ("{status} {cookie}", "no field 'cookie'")]
)
def test_formats_that_can_not_be_meant_are_refused(form, problem):
    with pytest.raises(InvalidConfiguration, match=problem):
        AccessLog(form)


@pytest.mark.parametrize("form", ["apache", "combined", "json", "structlog", "{user_agent} {path}"])
def test_nobody_can_write_a_line_of_his_own(form):
    hostile = '"\r\n\x1b[2Jx\x00\u2028é' + "a" * 10_000
    line = formatter(form)(RECORD._replace(user_agent=hostile, path="/" + hostile, referer=hostile, authority=hostile))
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 10_000


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/a", "/a"),
        ("/a?b", "/a?b"),
        ("/a?token=x&b=1", "/a?token=(redacted)&b=1"),
        ("/a?b=1&PASSWORD=x=y", "/a?b=1&PASSWORD=(redacted)"),
        ("https://joe:secret@host/a?sig=1", "https://(redacted)@host/a?sig=(redacted)"),
        ("/mail/joe@example.test", "/mail/joe@example.test"),
    ],
)
def test_secrets_are_redacted(path, shown):
    assert redacted(path, SECRETS) == shown


# --- writing -----------------------------------------------------------------------------------


async def test_a_full_queue_drops_and_counts(tmp_path):
    registry = Registry()
    writer = LogWriter(tmp_path / "log", formatter("{method}"), 3, registry)
    for _ in range(5):
        writer.put(RECORD)
    assert repr(writer) == f"<LogWriter to {tmp_path / 'log'}, 3 lines wait>"
    writer.close()
    assert (tmp_path / "log").read_text() == "GET\n" * 3
    assert registry.counter("access_log_dropped_total", "").value == 2
    assert registry.counter("access_log_lines_total", "").value == 3


def test_the_last_lines_are_written_where_the_write_before_has_just_ended_and_closed_the_file(tmp_path):
    writer = LogWriter(tmp_path / "log", formatter("{method}"), 3, Registry())
    writer._closing = True  # as when the end comes while a thread writes
    writer._batch = (1, b"GET\n")
    writer._write()
    writer.put(RECORD)
    writer.close()
    assert (tmp_path / "log").read_text() == "GET\n" * 2


async def wait_for(condition):
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.001)


async def test_a_file_that_was_moved_away_is_opened_anew(tmp_path):
    path = tmp_path / "log"
    registry = Registry()
    writer = LogWriter(path, formatter("{method}"), 10, registry)
    lines = registry.counter("access_log_lines_total", "")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        writer.put(RECORD)
        await wait_for(lambda: lines.value == 1)
        path.rename(tmp_path / "old")
        writer.put(RECORD)
        await wait_for(lambda: lines.value == 2)
        nursery.cancel_scope.cancel()
    writer.close()
    assert path.read_text() == (tmp_path / "old").read_text() == "GET\n"


async def test_a_pipe_that_nobody_reads_holds_nobody_up(tmp_path):
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:

        async def fine(_):
            return Response()

        layer = AccessLog("{path} {authority}", to=str(fifo), queue=100)
        with trio.fail_after(PATIENCE):
            async with opened(layer | Handler(fine)) as service:
                for _ in range(500):
                    request = Request("GET", "/" + "x" * 2000)
                    await service(Exchange(request, nobody, memory_connection()[1]))
        dropped = current_registry().counter("access_log_dropped_total", "").value
        assert dropped > 300
    finally:
        # Lets the write that is still under way end, so that its thread does not stay.
        while True:
            try:
                if not os.read(reader, 1 << 16):
                    break
            except BlockingIOError:
                await trio.lowlevel.checkpoint()
        os.close(reader)


async def test_a_disk_that_is_full_is_told_once_and_so_is_its_end(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("linkerd_proxy.metrics.log_writer._PAUSE", 0.0)
    registry = Registry()
    writer = LogWriter(pathlib.Path("/dev/full"), formatter("{method}"), 10, registry)
    lines = registry.counter("access_log_lines_total", "")
    dropped = registry.counter("access_log_dropped_total", "")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        for number in (1, 2):
            writer.put(RECORD)
            await wait_for(lambda: dropped.value == number)  # noqa: B023  # waited for here
        writer._path = tmp_path / "log"
        writer.put(RECORD)
        await wait_for(lambda: lines.value == 1)
        await wait_for(lambda: len(caplog.messages) == 2)
        nursery.cancel_scope.cancel()
    writer.close()
    assert caplog.messages == [
        "the access log /dev/full can't be written (No space left on device): lines are dropped and counted in "
        "access_log_dropped_total until it can; make room, or look who reads it",
        f"the access log {tmp_path / 'log'} can be written again",
    ]


async def test_standard_output_is_the_default(capfd):
    async with call(AccessLog("{method} {status}") | Handler(nothing), Request()) as response:
        await response.body.read()
    sys.stdout.flush()
    assert capfd.readouterr().out == "GET 200\n"


async def nothing(_):
    return Response()


async def test_a_file_that_can_not_be_written_is_told_when_it_is_opened(tmp_path):
    with pytest.raises(InvalidConfiguration, match=r"No such file or directory; name a file"):
        async with opened(AccessLog(to=str(tmp_path / "no" / "log")) | Handler(nothing)):
            pytest.fail("opened")


@pytest.mark.parametrize("settings", [{"queue": 0}, {"redact": "token"}])
def test_settings_that_can_not_be_meant_are_refused(settings):
    with pytest.raises(InvalidConfiguration):
        AccessLog(**settings)
