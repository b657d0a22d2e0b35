"""A client of raw frames, our server, our client, our server again: cancelled at every turn, and fed with garbage."""

import contextlib
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.core.work import Connection
from linkerd_proxy.http.deadlines import open_deadlines
from linkerd_proxy.http.h2.client import H2Client
from linkerd_proxy.http.h2.codes import Violation
from linkerd_proxy.http.h2.roles import ClientEngine, ServerEngine
from linkerd_proxy.http.h2.server import serve_h2
from linkerd_proxy.http.limits import Limits
from tests.http.h2.expect import CANCEL
from tests.http.h2.frames import HELLO, data, get, headers, ping, post, rst, settings, window
from tests.http.h2.peer import CLIENT, SERVER, Application, served


@asynccontextmanager
async def chained(application):
    """Yield a peer before a proxy before the application, and the proxy's client."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with open_deadlines() as deadlines, trio.open_nursery() as nursery:
        client = H2Client(Limits(), deadlines)
        nursery.start_soon(client.run, ours)
        nursery.start_soon(serve_h2, Connection(theirs, CLIENT, SERVER), application, Limits(), deadlines)
        async with served(client.exchange) as peer:
            yield peer, client
        nursery.cancel_scope.cancel()
    assert application.running == 0
    assert len(deadlines) == 0


async def test_everything_passes(autojump_clock):
    application = Application()
    async with chained(application) as (peer, client):
        await peer.send(settings({4: 2**20}), window(0, 2**20))
        await peer.send(
            headers(1, get("/big")), headers(3, post("/echo"), end=False), data(3, b"abc"), headers(5, get("/hang"))
        )
        assert len(peer.reader.body(1)) == 300_000
        assert peer.reader.body(3) == b"abc"
        await peer.send(headers(3, [("x", "y")]))
        assert peer.reader.frames[-1].fields == [("x", "y")]
        await peer.send(rst(5))
        assert application.cancelled == 1
        assert client.open_streams == 0


@pytest.mark.parametrize("path", ["/", "/echo", "/big", "/hang", "/early"])
async def test_a_cancel_at_any_turn_leaves_nothing_behind(path, autojump_clock):
    application = Application()
    async with chained(application) as (peer, client):
        tasks = trio.lowlevel.current_statistics().tasks_living
        for turns in range(40):
            stream = 2 * turns + 1
            await peer.stream.send_all(headers(stream, post(path), end=False) + data(stream, bytes(2000)))
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            await peer.send(rst(stream, CANCEL))
            assert application.running == 0
            assert client.open_streams == 0
            assert client.engine.streams == {}
            assert trio.lowlevel.current_statistics().tasks_living == tasks
            await trio.sleep(1)  # so that it is no flood
        assert await peer.is_well()


async def test_failures_of_one_stream_stay_there(autojump_clock):
    application = Application()
    async with chained(application) as (peer, _):
        await peer.send(headers(1, get("/hang")))
        for stream in range(3, 43, 2):
            await peer.send(headers(stream, get("/fail")))
            assert peer.reader.statuses(stream) == ["500"]
        assert application.running == 1
        assert await peer.is_well()


class Sink:
    """Takes everything that an engine reports."""

    def __getattr__(self, _name):
        return lambda *_: None

    def on_stream(self, stream, _block, _ended):
        stream.sink = self


FRAMES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            headers(1),
            headers(1, post(), end=False),
            headers(3),
            data(1, b"x"),
            rst(1),
            ping(),
            settings({4: 0}),
            window(1, 9),
        ]
    ),
    st.builds(
        lambda kind, flags, stream, payload: (
            len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
        ),
        st.integers(0, 12),
        st.integers(0, 255),
        st.integers(0, 9),
        st.binary(max_size=30),
    ),
)


@given(st.lists(FRAMES, max_size=30), st.booleans())
def test_an_engine_raises_nothing_but_violations(frames, is_server):
    engine = (ServerEngine if is_server else ClientEngine)(Sink(), Limits(), lambda: 0.0)
    if is_server:
        engine.receive(HELLO)
    else:
        engine.open_stream().sink = Sink()
        engine.receive(settings())
    with contextlib.suppress(Violation):
        for frame in frames:
            engine.receive(frame)
    assert engine.recv_window <= Limits().h2_connection_window
