"""Faults come at the points that were asked for."""

import pytest
import trio
import trio.testing

from linkerd_proxy import ConnectFailed, Dial, InvalidConfiguration, Target, opened
from linkerd_proxy.testing import Faults, FaultyStream, MemoryConnect, MemoryListener


async def test_a_reset_comes_exactly_after_its_point() -> None:
    mine, theirs = trio.testing.memory_stream_pair()
    stream = FaultyStream(mine, reset_after=3)
    await theirs.send_all(b"abcdef")
    assert await stream.receive_some() == b"abc"
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")


async def test_a_truncated_stream_ends_as_if_in_order() -> None:
    mine, theirs = trio.testing.memory_stream_pair()
    stream = FaultyStream(mine, truncate_after=3)
    await theirs.send_all(b"abcdef")
    assert await stream.receive_some() == b"abc"
    assert await stream.receive_some() == b""
    await stream.send_all(b"x")
    assert await theirs.receive_some() == b"x"


async def test_latency_is_kept(autojump_clock) -> None:
    mine, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(b"a")
    await FaultyStream(mine, latency=2).receive_some()
    assert trio.current_time() == pytest.approx(2)


async def _outcomes(faults: Faults) -> list[int]:
    """Return what each of twenty connections received, -1 for one refused."""
    got: list[int] = []
    listener = MemoryListener()

    async def use(stream: trio.abc.HalfCloseableStream) -> None:
        connection = await listener.accept()
        await connection.stream.send_all(b"x" * 100)
        await connection.stream.send_eof()
        got.append(0)
        try:
            async for data in stream:
                got[-1] += len(data)
        except trio.BrokenResourceError:
            pass

    async with opened(faults | MemoryConnect(listener)) as service:
        for _ in range(20):
            try:
                await service(Dial(Target(), use))
            except ConnectFailed:
                got.append(-1)
    return got


async def test_the_seed_picks_points_and_victims() -> None:
    points = await _outcomes(Faults(reset_after=range(10, 90), seed=3))
    assert len(set(points)) > 5
    assert all(10 <= point < 90 for point in points)
    assert await _outcomes(Faults(reset_after=range(10, 90), seed=3)) == points
    assert await _outcomes(Faults(reset_after=range(10, 90), seed=4)) != points
    refused = await _outcomes(Faults(refuse=True, share=0.5))
    assert set(refused) == {-1, 100}
    assert await _outcomes(Faults(refuse=True)) == [-1] * 20


def test_impossible_faults_are_refused() -> None:
    with pytest.raises(InvalidConfiguration):
        Faults(share=2)
