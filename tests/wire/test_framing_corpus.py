"""No malformed HTTP/1 message gets through: every payload of the corpus, in one piece and in many, on both codecs."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from linkerd_proxy.core.contain import contained
from linkerd_proxy.core.stack import opened
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.server import Http
from linkerd_proxy.testing import MemoryConnect, MemoryListener, memory_connection

CORPUS = json.loads((Path(__file__).parent / "http1-framing.json").read_text("utf-8"))

# The corpus only names the sizes of these.
OVERSIZE = {
    "20KB header one shot": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    "10000 headers one shot": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a:b\r\n" * 10_000 + b"\r\n",
    "1MB header one shot": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
}
# What a well-behaved backend must see of the payloads that are let through: method, target, host, body, and fields
# that must be there or must not.
LET_THROUGH = {
    "TE underscore": [("POST", "/", "a", b"Z")],
    "TE CHUNKED upper": [("POST", "/", "a", b"")],
    "CL 01": [("POST", "/", "a", b"Z")],
    "bare LF headers": [("POST", "/", "a", b"Z")],
    "LF only after reqline": [("GET", "/", "a", b"")],
    "chunk ext": [("POST", "/", "a", b"Z")],
    "pipelined": [("GET", "/1", "a", b""), ("GET", "/2", "a", b"")],
    "GET w CL body": [("GET", "/", "a", b"GET /")],
    "absolute-form mismatch": [("GET", "/x", "evil.example", b"")],
    "leading CRLF": [("GET", "/", "a", b"")],
    "h2c upgrade": [("GET", "/", "a", b"")],
    "CONNECT": [("CONNECT", "a:1", "a:1", b"")],
}
REFUSED_BY_CHOICE = {"Expect weird": 417}
BODY_LEVEL = re.compile("^chunk ")


def payload(case: dict[str, str]) -> bytes:
    return OVERSIZE.get(case["name"]) or case["bytes_latin1"].encode("latin-1")


def splits(data: bytes, how: str) -> Iterator[bytes]:
    if how == "whole":
        yield data
        return
    chance = random.Random(how)
    position = 0
    while position < len(data):
        size = int(how) if how.isdigit() else chance.randint(1, 40)
        yield data[position : position + size]
        position += size


class Backend:
    """Takes requests with a strict parser of its own, which fails the test if it is given anything odd."""

    def __init__(self) -> None:
        self.listener = MemoryListener()
        self.received: list[bytes] = []
        self.requests: list[tuple[str, str, str, bytes]] = []
        self.heads: list[bytes] = []

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                connection = await self.listener.accept()
                nursery.start_soon(self.serve, connection.stream)

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        index = len(self.received)
        self.received.append(b"")
        buffer = b""
        while True:
            try:
                data = await stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not data:
                return
            self.received[index] += data
            buffer += data
            while (taken := self.parse(buffer)) > 0:
                buffer = buffer[taken:]
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    def parse(self, buffer: bytes) -> int:
        head, end, rest = buffer.partition(b"\r\n\r\n")
        if not end:
            return 0
        assert b"\n" not in head.replace(b"\r\n", b"")
        lines = head.split(b"\r\n")
        method, target, version = lines[0].decode("ascii").split(" ")
        assert version == "HTTP/1.1"
        fields: dict[str, str] = {}
        for line in lines[1:]:
            match = re.fullmatch(rb"([a-z0-9-]+): ([\x20-\x7e]*)", line)
            assert match, line
            name = match[1].decode()
            assert name not in fields, f"{name} twice"
            fields[name] = match[2].decode()
        assert not ("content-length" in fields and "transfer-encoding" in fields)
        taken = len(head) + 4
        if "transfer-encoding" in fields:
            assert fields["transfer-encoding"] == "chunked"
            body = b""
            while True:
                match = re.match(rb"([0-9a-f]+)\r\n", rest)
                if not match:
                    return 0
                size = int(match[1], 16)
                if len(rest) < match.end() + size + 2:
                    return 0
                body += rest[match.end() : match.end() + size]
                assert rest[match.end() + size :][:2] == b"\r\n"
                taken += match.end() + size + 2
                rest = rest[match.end() + size + 2 :]
                if not size:
                    break
        else:
            length = int(fields.get("content-length", "0"))
            if len(rest) < length:
                return 0
            body = rest[:length]
            taken += length
        self.heads.append(head + b"\r\n")
        self.requests.append((method, target, fields["host"], body))
        return taken


async def exchange_bytes(data: bytes, how: str, codec: str) -> tuple[bytes, Backend]:
    backend = Backend()
    heard = b""
    stack = Http(codec=codec) | Client(codec=codec) | MemoryConnect(backend.listener)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backend.run)
        async with opened(stack) as service:
            client, connection = memory_connection()

            async def talk() -> None:
                nonlocal heard
                try:
                    for piece in splits(data, how):
                        await client.send_all(piece)
                        if how != "whole":
                            await trio.testing.wait_all_tasks_blocked()
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass  # refused before all of it was sent

            async with trio.open_nursery() as both:
                both.start_soon(contained, service, connection)
                both.start_soon(talk)
                with trio.move_on_after(100):
                    try:
                        while got := await client.receive_some():
                            heard += got
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        pass
                await client.aclose()
        nursery.cancel_scope.cancel()
    return heard, backend


@pytest.fixture(params=["h11", "httptools"])
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def statuses(heard: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", heard)]


HOWS = ["whole", "1", "7", "seed-1", "seed-2"]
REJECTED = [case for case in CORPUS if case["expect"] == "reject"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("case", REJECTED, ids=lambda case: case["name"])
async def test_what_must_be_rejected_is(case, how, codec, autojump_clock, caplog):
    data = payload(case)
    if how == "1" and len(data) > 100_000:
        how = "977"
    heard, backend = await exchange_bytes(data, how, codec)
    assert statuses(heard) == [case["status"]]
    assert b"\r\nconnection: close\r\n" in heard
    assert backend.requests == []
    if not BODY_LEVEL.match(case["name"]):
        assert backend.received == []
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", sorted(LET_THROUGH))
async def test_what_is_let_through_is_normalised(name, how, codec, autojump_clock, caplog):
    case = next(case for case in CORPUS if case["name"] == name)
    heard, backend = await exchange_bytes(payload(case), how, codec)
    assert backend.requests == LET_THROUGH[name]
    expected = [200] * len(LET_THROUGH[name])
    if name == "h2c upgrade":
        expected.append(408)  # the preface that followed is no HTTP/1 request, nor half of one
        assert b"upgrade" not in backend.heads[0]
        assert b"http2-settings" not in backend.heads[0]
    assert statuses(heard) == expected
    assert b"transfer_encoding" not in b"".join(backend.heads)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", sorted(REFUSED_BY_CHOICE))
async def test_what_may_be_refused_is(name, how, codec, autojump_clock):
    case = next(case for case in CORPUS if case["name"] == name)
    heard, backend = await exchange_bytes(payload(case), how, codec)
    assert statuses(heard) == [REFUSED_BY_CHOICE[name]]
    assert backend.received == []


def test_every_case_has_its_test():
    names = {case["name"] for case in CORPUS}
    assert names == {case["name"] for case in REJECTED} | set(LET_THROUGH) | set(REFUSED_BY_CHOICE)


async def test_strict_line_ends_refuse_a_bare_line_feed(codec, autojump_clock):
    stack = Http(codec=codec, limits=Limits(strict_line_ends=True)) | Client() | MemoryConnect(MemoryListener())
    async with opened(stack) as service, trio.open_nursery() as nursery:
        client, connection = memory_connection()
        nursery.start_soon(contained, service, connection)
        await client.send_all(b"GET / HTTP/1.1\nHost: a\n\n")
        assert (await client.receive_some()).startswith(b"HTTP/1.1 400 ")
        await client.aclose()
