"""An upstream that floods: its connection is given up with an error for its exchanges, and memory stays bounded."""

import pytest
import trio

from linkerd_proxy.errors import UpstreamProtocolError
from tests.attack.memory import traced
from tests.http.h2.expect import CALM
from tests.http.h2.frames import block, continuation, data, headers, ping, priority, settings, window
from tests.http.h2.upstream import OK, upstream

FLOODS = {
    "PING": lambda: ping() * 70,
    "SETTINGS": lambda: settings() * 20,
    "WINDOW_UPDATE": lambda: window(1, 1) * 20,
    "PRIORITY": lambda: priority(1) * 250,
    "CONTINUATION": lambda: headers(1, block(OK), end_headers=False) + continuation(1, b"", end_headers=False) * 12,
    "empty DATA": lambda: headers(1, OK, end=False) + data(1) * 12,
    "one-byte DATA": lambda: headers(1, OK, end=False) + data(1, b"x") * 20_000,
    "HPACK bomb": lambda: headers(1, [*OK, ("x", "y" * 4000)], end=False) + headers(1, b"\xbe" * 4000),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_flood_of_an_upstream(flood, autojump_clock):
    async with upstream() as up:
        call = await up.ask()
        frames = flood()
        with traced() as peak:
            await up.send(frames)
        with trio.fail_after(1):
            await up.over.wait()
        await up.settle()
        assert up.reader.goaways() == [CALM]
        assert isinstance(call.error, UpstreamProtocolError)
        assert peak() < 4_000_000


async def test_informational_responses_without_end(autojump_clock):
    async with upstream() as up:
        call = await up.ask()
        other = await up.ask()
        await up.send(headers(1, [(":status", "103")], end=False) * 1000)
        assert isinstance(call.error, UpstreamProtocolError)
        assert len(call.responses) <= 16
        await up.send(headers(3, OK))
        assert other.statuses == [200]
