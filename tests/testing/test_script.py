"""Byte scripts, and what they say when the peer strays."""

import random
import re

import pytest
import trio
import trio.testing

from linkerd_proxy.testing import EOF, RESET, Script, ScriptMismatch


async def _echo(stream: trio.abc.HalfCloseableStream) -> None:
    async with stream:
        async for data in stream:
            await stream.send_all(data)


async def _played(script: Script, **options: object) -> bytes:
    mine, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_echo, theirs)
        heard = await script.play(mine, **options)  # type: ignore[arg-type]
        nursery.cancel_scope.cancel()
    return heard


@pytest.mark.parametrize("split", [None, 1, random.Random(7)])
async def test_a_script_plays_however_its_bytes_are_split(split) -> None:
    script = Script() >> b"hello\r\n" << b"hello\r\n" >> b"again" << re.compile(rb"a\w+n") >> EOF << EOF
    assert await _played(script, split=split) == b"hello\r\nagain"


async def test_split_bytes_arrive_one_by_one() -> None:
    mine, theirs = trio.testing.memory_stream_pair()
    pieces: list[bytes] = []

    async def collect() -> None:
        async for data in theirs:
            pieces.append(bytes(data))  # noqa: PERF401  # what came before an error counts too

    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect)
        await (Script() >> b"abc" >> EOF).play(mine, split=1)
    assert pieces == [b"a", b"b", b"c"]


async def test_a_mismatch_names_the_step_and_shows_both_sides() -> None:
    mine, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(b"HTTP/1.1 404 Not Found\r\nserver: x\r\n")
    with pytest.raises(ScriptMismatch) as caught:
        await (Script() << b"HTTP/1.1 200 OK\r\nserver: x\r\n").play(mine)
    lines = str(caught.value).splitlines()
    assert lines[0] == "step 1 of 1: the peer said something else"
    assert "- b'HTTP/1.1 200 OK\\r\\n'" in lines
    assert "+ b'HTTP/1.1 404 Not Found\\r\\n'" in lines
    assert "  b'server: x\\r\\n'" in lines


async def test_silence_ends_at_the_deadline(autojump_clock) -> None:
    mine, _theirs = trio.testing.memory_stream_pair()
    with pytest.raises(ScriptMismatch, match="step 1 of 2: nothing more came within 30 s"):
        await (Script() << b"x" << EOF).play(mine)
    assert trio.current_time() == pytest.approx(30)


async def test_an_end_too_early_and_one_missing_are_mismatches() -> None:
    mine, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(b"ab")
    await theirs.send_eof()
    with pytest.raises(ScriptMismatch, match=r"the peer ended \(EOF\) before it had said this"):
        await (Script() << b"abc").play(mine)
    mine, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(b"ab")
    with pytest.raises(ScriptMismatch, match="in the place of its end"):
        await (Script() << EOF).play(mine)


async def test_more_than_expected_is_a_mismatch() -> None:
    mine, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(b"abc")
    with pytest.raises(ScriptMismatch, match="more than the script expects"):
        await (Script() << b"ab").play(mine)


async def test_a_pause_says_nothing_for_its_time(autojump_clock) -> None:
    await _played((Script() >> b"a" << b"a").pause(4) >> b"b" << b"b")
    assert trio.current_time() == pytest.approx(4)


async def test_a_reset_breaks_the_peers_stream() -> None:
    mine, theirs = trio.testing.memory_stream_pair()
    await (Script() >> RESET).play(mine)
    with pytest.raises(trio.BrokenResourceError):
        await theirs.send_all(b"x")
    mine, theirs = trio.testing.memory_stream_pair()
    await trio.aclose_forcefully(theirs)
    await (Script() << RESET).play(mine)


def test_the_repr_evaluates_to_the_script() -> None:
    script = (Script() >> b"a" << b"b").pause(1.5) >> EOF << re.compile(rb"x+") << RESET
    assert eval(repr(script)) == script
