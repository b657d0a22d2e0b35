"""A large document is read beside everything else, a small one at once."""

import threading

import pytest
import trio
import trio.testing

from linkerd_proxy.document.aside import read_aside
from linkerd_proxy.document.load import read
from linkerd_proxy.document.tree import InvalidDocument


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large"
    path.write_text(" " * 5000)
    return path


async def test_a_large_one_stops_nobody(large):
    going = threading.Event()

    def slow(path):
        assert going.wait(30), "nothing else ran meanwhile"
        return path, threading.get_ident()

    async def goes_on():
        await trio.lowlevel.checkpoint()
        going.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(goes_on)
        found, thread = await read_aside(large, slow)
    assert found == large
    assert thread != threading.get_ident()


async def test_nobody_waits_for_one_that_is_not_wanted_any_more(large):
    going, ended = threading.Event(), threading.Event()

    def slow(path):
        going.wait(30)
        ended.set()

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_aside, large, slow)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert not ended.is_set()
    going.set()
    await trio.to_thread.run_sync(ended.wait, 30)
    assert ended.is_set()


async def test_a_small_one_is_read_in_place_with_a_checkpoint(tmp_path):
    path = tmp_path / "small"
    path.write_text("{}")
    with trio.testing.assert_checkpoints():
        assert await read_aside(path, lambda _: threading.get_ident()) == threading.get_ident()


@pytest.mark.parametrize("text", ["{", "{" + " " * 5000, None])
async def test_what_is_wrong_is_said_either_way(text, tmp_path):
    path = tmp_path / "broken.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidDocument):
        await read_aside(path, read)
