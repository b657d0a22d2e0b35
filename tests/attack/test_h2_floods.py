"""Floods of reliability's HTTP/2 table: each is cut off soon after it crosses its limit, and nobody else notices.

The attacker sends as fast as the proxy takes it, over a stream without any buffer; another client's requests on another
connection to the same service must all succeed meanwhile.
"""

import itertools
from dataclasses import dataclass, field

import pytest
import trio
import trio.lowlevel
import trio.testing

from linkerd_proxy.http.limits import Limits
from tests.attack.memory import traced
from tests.http.h2.expect import CALM
from tests.http.h2.frames import (
    GET,
    block,
    continuation,
    data,
    get,
    headers,
    ping,
    post,
    priority,
    raw,
    rst,
    settings,
    window,
)
from tests.http.h2.peer import Application, served


@dataclass(frozen=True)
class Flood:
    """An endless attack, and after how many of its steps it must be over."""

    name: str
    steps: object
    most: int
    reads: bool = True
    exchanges: int = 100
    limits: dict = field(default_factory=dict)


def streams(start=1):
    return itertools.count(start, 2)


def rapid_reset():
    for stream in streams():
        yield headers(stream, get("/hang")) + rst(stream)


def resets_after_the_response_began():
    for stream in streams():
        yield headers(stream, post("/echo"), end=False)
        yield b""
        yield rst(stream)


def made_you_reset_by_window():
    for stream in streams():
        yield headers(stream, get("/hang")) + window(stream, 2**31 - 1)


def made_you_reset_by_data():
    for stream in streams():
        yield headers(stream, get("/hang")) + data(stream, b"x")


def made_you_reset_by_headers():
    for stream in streams():
        yield headers(stream, get("/hang")) + headers(stream, [("x", "y")])


def continuations():
    yield headers(1, block(GET), end_headers=False)
    while True:
        yield continuation(1, b"\x00\x01x\x01y", end_headers=False)


def hpack_bomb():
    # One entry of 4000 bytes in the table, then one byte for each copy of it.
    yield headers(1, [*GET, ("x", "y" * 4000)])
    for stream in streams(3):
        yield headers(stream, block(GET) + b"\xbe" * 4000)


def many_tiny_fields():
    for stream in streams():
        yield headers(stream, block(GET) + b"\x10\x01x\x00" * 400)


def settings_flood():
    while True:
        yield settings({4: 65_535})


def table_size_flood():
    for size in itertools.cycle((0, 4096)):
        yield settings({1: size})


def ping_flood():
    while True:
        yield ping()


def empty_data():
    yield headers(1, post("/hang"), end=False)
    while True:
        yield data(1)


def empty_continuations():
    yield headers(1, b"", end_headers=False)
    while True:
        yield continuation(1, b"", end_headers=False)


def dribbled_data():
    yield headers(1, post(), end=False)
    while True:
        yield data(1, b"x") * 100


def priorities():
    while True:
        yield priority(1, 3) * 10


def window_updates():
    yield headers(1, get("/hang"))
    while True:
        yield window(1, 1)


def connection_window_updates():
    while True:
        yield window(0, 1)


def dribbled_window():
    yield settings({4: 0}) + headers(1, get("/big"))
    while True:
        yield window(1, 1)
        yield b""


def malformed_requests():
    for stream in streams():
        yield headers(stream, get("no path"))


def too_many_streams():
    for stream in streams():
        yield headers(stream, get("/hang"))


def unknown_frames():
    while True:
        yield raw(0x77, 0, 0, bytes(1000))


def resets_of_nothing():
    yield headers(1)
    while True:
        yield rst(1)


def huge_frame():
    yield raw(0, 0, 1, b"", 2**24 - 1)
    while True:
        yield bytes(10_000)


FLOODS = [
    Flood("rapid reset (CVE-2023-44487)", rapid_reset, 60, exchanges=0),
    Flood("resets after the response began", resets_after_the_response_began, 700, exchanges=250),
    Flood("MadeYouReset by window (CVE-2025-8671)", made_you_reset_by_window, 110),
    Flood("MadeYouReset by DATA", made_you_reset_by_data, 110),
    Flood("MadeYouReset by HEADERS", made_you_reset_by_headers, 110),
    Flood("CONTINUATION (CVE-2024-27316)", continuations, 12, exchanges=0),
    Flood("HPACK bomb", hpack_bomb, 5, exchanges=1),
    Flood("many tiny fields", many_tiny_fields, 110, exchanges=0),
    Flood("SETTINGS (CVE-2019-9515)", settings_flood, 20, exchanges=0),
    Flood("SETTINGS that change the table", table_size_flood, 20, exchanges=0),
    Flood("PING (CVE-2019-9512)", ping_flood, 70, exchanges=0),
    Flood("PING without reading the answers", ping_flood, 70, exchanges=0, reads=False),
    Flood("answers not read", ping_flood, 1100, exchanges=0, reads=False, limits={"h2_pings_per_minute": 10**6}),
    Flood("empty DATA (CVE-2019-9518)", empty_data, 15, exchanges=1),
    Flood("empty CONTINUATION", empty_continuations, 12, exchanges=0),
    Flood("one-byte DATA (CVE-2019-9511)", dribbled_data, 160, exchanges=1),
    Flood("PRIORITY (CVE-2019-9513)", priorities, 15, exchanges=0),
    Flood("WINDOW_UPDATE on a stream", window_updates, 12, exchanges=1),
    Flood("WINDOW_UPDATE on the connection", connection_window_updates, 10, exchanges=0),
    Flood("one-byte windows", dribbled_window, 250, exchanges=1),
    Flood("malformed requests", malformed_requests, 110, exchanges=0),
    Flood("more streams than allowed", too_many_streams, 310),
    Flood("unknown frames", unknown_frames, 110, exchanges=0),
    Flood("RST_STREAM of a closed stream", resets_of_nothing, 210, exchanges=1),
    Flood("a frame of 16 MB", huge_frame, 3, exchanges=0),
]


async def until(condition):
    """Wait for something that other tasks bring about, in scheduler turns."""
    for _ in range(20_000):
        if condition():
            return
        await trio.lowlevel.checkpoint()
    raise AssertionError("it never happened")


async def other_client(peer, answered, stop):
    for stream in streams(1001):
        await peer.stream.send_all(headers(stream, get("/")))
        await until(lambda stream=stream: peer.reader.ended(stream))
        assert peer.reader.statuses(stream) == ["200"]
        answered.append(stream)
        if stop.is_set():
            return
        await trio.sleep(0.01)


async def attack(flood, peer):
    """Send until cut off; return how many steps it took."""
    for count, step in enumerate(flood.steps(), 1):
        try:
            if step:
                await peer.stream.send_all(step)
            else:
                for _ in range(10):
                    await trio.lowlevel.checkpoint()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return count
        if peer.reader.goaways():
            return count
        assert count <= flood.most, "not cut off"
    raise AssertionError("unreachable")


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.name)
async def test_flood_is_cut_off_and_nobody_else_notices(flood, autojump_clock):
    application = Application()
    answered = []
    stop = trio.Event()
    limits = Limits(**flood.limits)
    async with served(application, limits=limits, pair=trio.testing.lockstep_stream_pair) as attacker:
        if not flood.reads:
            attacker.reading.cancel()
        async with served(Application()) as other, trio.open_nursery() as nursery:
            nursery.start_soon(other_client, other, answered, stop)
            with traced() as peak:
                began = trio.current_time()
                await attack(flood, attacker)
                with trio.fail_after(1.1):
                    await attacker.done.wait()
            stop.set()
            assert other.reader.goaways() == []
        assert answered
        assert attacker.failure is not None
        assert trio.current_time() - began <= 1.1
        assert peak() < 4_000_000
        assert len(application.seen) <= flood.exchanges
        assert application.running == 0
        if flood.reads and flood.name != "a frame of 16 MB":
            assert attacker.reader.goaways() == [CALM]


def test_there_are_at_least_ten_vectors():
    assert len({flood.name for flood in FLOODS}) >= 10
