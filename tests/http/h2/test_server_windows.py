"""Windows and turns: what may be sent and what may come, and who waits."""

import trio
from hyperframe.frame import WindowUpdateFrame

from linkerd_proxy.core.message import Response
from linkerd_proxy.http.limits import Limits
from tests.http.h2.expect import CANCEL
from tests.http.h2.frames import data, get, headers, post, rst, settings, window
from tests.http.h2.peer import Handler, Zeros, served


async def test_content_waits_for_the_streams_window(autojump_clock):
    async with served() as peer:
        await peer.send(settings({4: 10}), headers(1, get("/big")))
        assert peer.reader.body(1) == bytes(10)
        await peer.send(window(1, 1))
        assert len(peer.reader.body(1)) == 11
        await peer.send(settings({4: 300_000}), window(0, 300_000))
        assert len(peer.reader.body(1)) == 300_000
        assert peer.reader.ended(1)


async def test_one_stream_without_a_window_does_not_block_others(autojump_clock):
    async with served() as peer:
        await peer.send(settings({4: 0}), headers(1, get("/big")), settings({4: 65_535}), window(0, 2**20))
        await peer.send(settings({4: 100}), headers(3, get("/big")))
        assert await peer.is_well()


async def test_connection_window_is_shared_in_turns(autojump_clock):
    async with served() as peer:
        await peer.send(settings({4: 2**20}), *[headers(stream, get("/big")) for stream in (1, 3, 5)])
        assert sum(len(peer.reader.body(stream)) for stream in (1, 3, 5)) == 65_535
        for _ in range(6):
            await peer.send(window(0, 49_152))
        sizes = [len(peer.reader.body(stream)) for stream in (1, 3, 5)]
        assert sum(sizes) == 65_535 + 6 * 49_152
        assert min(sizes) >= 75_000  # about a third of what came later; a chunk may end with a short turn


async def test_a_cancelled_sender_passes_its_turn_on(autojump_clock):
    async with served() as peer:
        await peer.send(settings({4: 2**20}), *[headers(stream, get("/big")) for stream in (1, 3, 5)])
        await peer.send(rst(1), rst(3))
        await peer.send(window(0, 2**20))
        assert peer.reader.ended(5)
        assert len(peer.reader.body(5)) == 300_000


async def test_windows_open_only_when_content_is_pulled(autojump_clock):
    go = trio.Event()

    async def slow(exchange):
        await go.wait()
        await exchange.request.body.read()
        await exchange.respond(Response(200))

    async with served(Handler(slow)) as peer:
        await peer.send(headers(1, post(), end=False), *[data(1, bytes(16000))] * 4)
        before = len(peer.reader.of(WindowUpdateFrame))
        go.set()
        await peer.settle()
        updates = peer.reader.of(WindowUpdateFrame)[before:]
        assert [(f.stream_id, f.window_increment) for f in updates] == [(1, 64_000)]
        await peer.send(data(1, bytes(16000), end=True))
        assert peer.reader.statuses(1) == ["200"]


async def test_reset_streams_give_their_bytes_back_to_the_connection(autojump_clock):
    async with served(limits=Limits(h2_resets_per_second=1000, h2_early_resets=1000)) as peer:
        for stream in range(1, 201, 2):
            await peer.send(headers(stream, post("/hang"), end=False), *[data(stream, bytes(16000))] * 4, rst(stream))
        back = sum(f.window_increment for f in peer.reader.of(WindowUpdateFrame, 0)[1:])
        assert 0 <= 100 * 64_000 - back < 2**18
        assert await peer.is_well()


async def test_no_more_is_pulled_than_fits_the_buffers(autojump_clock):
    body = Zeros(10_000_000)

    async def answer(exchange):
        await exchange.respond(Response(200, [], body))

    async with served(Handler(answer)) as peer:
        await peer.send(settings({4: 2**30}), window(0, 2**30))
        peer.stream.receive_stream.close()  # the client reads nothing more
        await peer.send(headers(1))
        assert body.pulled <= 500_000


async def test_write_stall_of_a_stream_ends_it(autojump_clock):
    async with served() as peer:
        await peer.send(settings({4: 10}), headers(1, get("/big")))
        await trio.sleep(58)
        assert peer.reader.resets() == []
        await trio.sleep(4)
        await peer.settle()
        assert peer.reader.resets(1) == [CANCEL]
        assert peer.application.running == 0
        assert await peer.is_well()


async def test_slow_upload_is_answered_408(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, post(), end=False), data(1, b"x"))
        await trio.sleep(7)
        await peer.settle()
        assert peer.reader.statuses(1) == ["408"]
        assert peer.application.cancelled == 1
        assert await peer.is_well()


async def test_a_grpc_upload_may_be_silent(autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, post("/", ("content-type", "application/grpc")), end=False))
        await trio.sleep(1000)
        assert peer.application.running == 1
        await peer.send(data(1, b"abc", end=True))
        assert peer.reader.statuses(1) == ["200"]
