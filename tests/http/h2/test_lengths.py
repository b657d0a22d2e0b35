"""A proxy of HTTP/2 says of a message's length what the peer said: it adds no content-length, and takes none away."""

import pytest

from linkerd_proxy.core.message import Response, Whole
from linkerd_proxy.http.rescue import Rescue
from tests.http.h2.frames import data, get, headers, post
from tests.http.h2.peer import Handler, served
from tests.http.h2.upstream import upstream

GRPC = ("content-type", "application/grpc")
ZERO = ("content-length", "0")


def head_of(reader, stream):
    return next(frame.fields for frame in reader.frames if frame.stream_id == stream and hasattr(frame, "fields"))


@pytest.mark.parametrize("fields", [get(), post(), post("/", GRPC, ("te", "trailers"))])
@pytest.mark.parametrize("length", [(), (ZERO,)])
async def test_of_a_request(fields, length, autojump_clock):
    async with upstream() as up, served(up.client.exchange) as peer:
        await peer.send(headers(1, [*fields, *length]))
        assert head_of(up.reader, 1).count(ZERO) == len(length)
        assert up.reader.ended(1)
        await peer.send(headers(3, fields, end=False), data(3, end=True))
        assert ZERO not in head_of(up.reader, 3)


@pytest.mark.parametrize(
    "fields",
    [
        [(":status", "200"), GRPC, ("grpc-status", "0")],
        [(":status", "200"), GRPC, ("grpc-status", "14"), ("grpc-message", "later")],
        [(":status", "200")],
        [(":status", "404")],
    ],
)
@pytest.mark.parametrize("length", [(), (ZERO,)])
async def test_of_an_answer(fields, length, autojump_clock):
    async with upstream() as up, served(up.client.exchange) as peer:
        await peer.send(headers(1, post("/", GRPC)))
        await up.send(headers(1, [*fields, *length]))
        assert head_of(peer.reader, 1) == [*fields, *length]
        assert peer.reader.ended(1)
        await peer.send(headers(3, get()))
        await up.send(headers(3, fields, end=False), data(3, end=True))
        assert ZERO not in head_of(peer.reader, 3)


async def test_of_an_answer_of_ones_own(autojump_clock):
    answers = iter([Response(200), Response(200, body=Whole()), Response(200, body=b"abc")])

    async def answer(exchange):
        await exchange.respond(next(answers))

    async with served(Handler(answer)) as peer:
        for stream, told in ((1, None), (3, "0"), (5, "3")):
            await peer.send(headers(stream))
            assert dict(head_of(peer.reader, stream)).get("content-length") == told


async def test_of_a_failure_of_a_call(autojump_clock):
    async def fails(exchange):
        raise OSError("away")

    async with Rescue().open(fails) as service, served(service) as peer:
        await peer.send(headers(1, post("/", GRPC)))
        assert dict(head_of(peer.reader, 1))["grpc-status"]
        assert "content-length" not in dict(head_of(peer.reader, 1))
