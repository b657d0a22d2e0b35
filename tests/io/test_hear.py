"""A ClientHello is taken off a stream once, and put back with what it says."""

import pytest
import trio
import trio.testing

from linkerd_proxy.io.hear import hear
from linkerd_proxy.io.rewind import Rewound
from linkerd_proxy.testing import memory_connection
from tests.io.test_client_hello import real_hello


async def test_a_hello_that_was_read_is_handed_on_as_long_as_it_is_whole():
    data = real_hello("web.example")
    for taken in (0, 5):
        _ours, connection = memory_connection()
        first = await hear(Rewound(connection.stream, data))
        rewound = first.put_back()
        assert isinstance(rewound, Rewound)
        assert rewound.hello is first.hello is not None
        if taken:
            await rewound.receive_some(taken)
            assert rewound.hello is None
        else:
            heard = await hear(rewound)
            assert heard.hello is first.hello
            assert heard.data == data
            assert heard.stream is connection.stream
            assert rewound.hello is None


async def test_not_one_byte_more_is_waited_for_than_makes_it_certain():
    hello = real_hello("a.com")
    for piece, is_one in ((hello, True), (b"G", False), (b"\x16\x03\x01\x00\x10\x02", False)):
        client, connection = memory_connection()
        await client.send_all(piece)
        heard = await hear(connection.stream)
        assert (heard.data, heard.hello is not None) == (piece, is_one)


class Pieces(trio.abc.ReceiveStream):
    """Gives out what it has, and ends or breaks."""

    def __init__(self, *pieces, breaks):
        self.pieces = list(pieces)
        self.breaks = breaks

    async def receive_some(self, max_bytes=None):
        await trio.lowlevel.checkpoint()
        if not self.pieces and self.breaks:
            raise trio.BrokenResourceError("reset")
        return self.pieces.pop(0) if self.pieces else b""

    async def aclose(self):
        await trio.lowlevel.checkpoint()


def stream(*pieces, breaks):
    return trio.StapledStream(trio.testing.MemorySendStream(), Pieces(*pieces, breaks=breaks))


@pytest.mark.parametrize("breaks", [True, False])
async def test_an_end_or_a_break_before_the_first_byte_is_silence(breaks):
    silent = stream(breaks=breaks)
    heard = await hear(silent)
    assert (heard.data, heard.hello, heard.put_back()) == (b"", None, silent)


async def test_after_it_a_break_is_one_and_an_end_makes_no_hello():
    with pytest.raises(trio.BrokenResourceError):
        await hear(stream(b"\x16\x03", breaks=True))
    heard = await hear(stream(b"\x16\x03", breaks=False))
    assert (heard.data, heard.hello) == (b"\x16\x03", None)
