import random

import pytest

from linkerd_proxy.errors import BadRequest
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.h1.chunks import ChunkDecoder
from linkerd_proxy.http.h1.serialise import chunk, last_chunk
from linkerd_proxy.http.limits import Limits


def decode(data, size, limits=None):
    decoder = ChunkDecoder(limits or Limits())
    content, buffer = b"", b""
    for start in range(0, len(data), size):
        buffer += data[start : start + size]
        piece, buffer = decoder.decode(buffer)
        content += piece
        if decoder.done:
            return content, buffer + data[start + size :], decoder
    return content, buffer, decoder


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_round_trip(size):
    chance = random.Random(size)
    pieces = [chance.randbytes(chance.choice([1, 2, 15, 16, 4095])) for _ in range(8)]
    trailers = Headers([("x-sum", "1"), ("host", "no")])
    wire = b"".join(map(chunk, pieces)) + last_chunk(trailers) + b"NEXT"
    content, rest, decoder = decode(wire, size)
    assert (content, rest) == (b"".join(pieces), b"NEXT")
    assert decoder.trailers == Headers([("x-sum", "1")])
    assert repr(decoder) == "<ChunkDecoder at done, 9 chunks>"


@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize(
    "wire",
    [
        b"0x1\r\nx\r\n",
        b" 1\r\nx\r\n",
        b"1_0\r\n",
        b"10000000000000000\r\n",
        b"8000000000000000\r\n",
        b"1;a=\x00\r\n",
        b"1;a\x7f\r\n",
        b"1\r\nxy",
        b"1\r\nx\n",
        b"1\r\nx\r1",
        b"1\r\rx",
        b"0\r\n\n",
        b"0\r\n x: y\r\n\r\n",
        b"0\r\nx y: z\r\n\r\n",
        b"0\r\nx: y\n\r\n",
        b"0\r\nx: \x00\r\n\r\n",
        b"0\r\n: y\r\n\r\n",
        b"0\r\nx: " + b"y" * 9000 + b"\r\n\r\n",
        b"1;" + b"a" * 2000 + b"\r\nx\r\n0\r\n\r\n",
        b"1;" + b"a" * 17 + b"\r\nx\r\n0\r\n\r\n",
        b"1;" + b"a" * 3000,
        b"1;aaaaaaaaaa\r\nx\r\n" * 200,
    ],
)
def test_malformed_chunks(wire, size):
    with pytest.raises(BadRequest):
        decode(wire, size)


def test_half_a_message_is_not_done():
    wire = chunk(b"abc") + b"0\r\nx: y\r\n\r\n"
    for end in range(len(wire)):
        _, _, decoder = decode(wire[:end], 4)
        assert not decoder.done
