"""Request bodies for several tries: each gets every byte, in order, and the client is read once."""

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from linkerd_proxy.core.message import EMPTY, Whole
from linkerd_proxy.headers import Headers
from linkerd_proxy.retry.replay import Replay
from tests.retry.upstream import Chunks


async def test_it_gives_what_was_pulled_and_then_goes_on():
    source = Chunks(b"a", b"b", b"c", trailers=Headers([("t", "1")]))
    replay = Replay(source, 10)
    first = replay.body()
    assert await first.pull() == b"a"
    second = replay.body()
    assert [chunk async for chunk in second] == [b"a", b"b", b"c"]
    assert second.trailers == Headers([("t", "1")])
    third = replay.body()
    assert (await third.read(), third.trailers) == (b"abc", second.trailers)
    assert source.pulled == 3
    assert replay.complete
    assert (replay.kept, replay.lost) == (3, False)


async def test_a_try_that_is_over_can_not_steal_the_next_ones_bytes():
    replay = Replay(Chunks(b"a", b"b"), 10)
    old = replay.body()
    new = replay.body()
    with pytest.raises(RuntimeError, match="over"):
        await old.pull()
    assert await new.read() == b"ab"


async def test_a_complete_body_can_be_read_by_two_at_once():
    replay = Replay(Chunks(b"a", b"b"), 10)
    one = replay.body()
    await one.read()
    two, three = replay.body(), replay.body()
    assert await two.pull() == await three.pull() == b"a"
    assert await three.pull() == await two.pull() == b"b"


async def test_a_body_in_memory_is_no_trouble():
    replay = Replay(Whole(b"data", Headers([("t", "1")])), 0)
    assert replay.complete
    for _ in range(2):
        body = replay.body()
        assert isinstance(body, Whole)
        assert (await body.read(), body.trailers) == (b"data", Headers([("t", "1")]))
    assert Replay(Whole(b""), 0).body() is EMPTY


async def test_one_byte_too_many_loses_it():
    calls = []
    replay = Replay(Chunks(b"abc", b"d", b"e"), 4, lambda: calls.append("lost"))
    body = replay.body()
    assert [await body.pull(), await body.pull()] == [b"abc", b"d"]
    assert (replay.kept, replay.lost, calls) == (4, False, [])
    assert await body.pull() == b"e"
    assert (replay.kept, replay.lost, calls) == (0, True, ["lost"])
    assert await body.pull() == b""
    assert not replay.complete


async def test_what_says_that_it_is_too_large_is_not_kept_at_all():
    replay = Replay(Chunks(b"ab", b"cd", length=4), 3)
    body = replay.body()
    assert not replay.lost  # nothing was pulled: a refused connection can be tried again
    await body.pull()
    assert (replay.kept, replay.lost) == (0, True)
    assert body.length == 4


async def test_released_it_keeps_nothing_more():
    replay = Replay(Chunks(b"a", b"b", b"c"), 10)
    body = replay.body()
    await body.pull()
    again = replay.body()
    replay.release()
    assert [chunk async for chunk in again] == [b"a", b"b", b"c"]
    assert replay.kept == 0


async def test_a_cancelled_pull_loses_no_byte(autojump_clock):
    replay = Replay(Chunks(b"a", 5.0, b"b"), 10)
    body = replay.body()
    assert await body.pull() == b"a"
    with trio.move_on_after(1):
        await body.pull()
    assert await replay.body().read() == b"ab"


class Source(Chunks):
    """Needs no Trio: it never waits."""

    async def pull(self):
        self.pulled += 1
        return self.chunks.pop(0) if self.chunks else b""


def now(awaitable):
    """Run what never waits."""
    try:
        awaitable.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


class ReplayMachine(RuleBasedStateMachine):
    """Tries begin, read a little, and begin again; each must see a prefix of the one true body."""

    LIMIT = 12

    def __init__(self):
        super().__init__()
        self.content = [bytes([65 + i % 26]) * (i % 5 + 1) for i in range(8)]
        self.source = Source(*self.content)
        self.replay = Replay(self.source, self.LIMIT)
        self.reader = self.replay.body()
        self.seen = b""
        self.released = False

    @property
    def whole(self):
        return b"".join(self.content)

    @rule(times=st.integers(1, 4))
    def pull(self, times):
        for _ in range(times):
            chunk = now(self.reader.pull())
            self.seen += chunk
            if not chunk:
                assert self.seen == self.whole

    @precondition(lambda self: not self.replay.lost and not self.released)
    @rule()
    def begin_another(self):
        self.reader = self.replay.body()
        self.seen = b""

    @rule()
    def release(self):
        self.replay.release()
        self.released = True

    @invariant()
    def each_try_sees_the_beginning_of_the_body(self):
        assert self.whole.startswith(self.seen)

    @invariant()
    def no_more_is_kept_than_allowed(self):
        assert self.replay.kept <= self.LIMIT
        assert sum(map(len, self.replay._chunks)) == self.replay.kept

    @invariant()
    def the_client_is_read_no_further_than_somebody_wants(self):
        assert self.source.pulled <= len(self.content) + 1


TestReplayMachine = ReplayMachine.TestCase
TestReplayMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
