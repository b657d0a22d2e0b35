"""Backends that break off, hang or talk nonsense: what clients see of it, and never a part that looks like the whole."""

from __future__ import annotations

import os
import random
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import h11
import pytest
import trio

from linkerd_proxy import (
    Balance,
    Client,
    Connect,
    Http,
    Identity,
    Originate,
    Request,
    Rescue,
    Response,
    Retry,
    Stack,
    Static,
    Terminate,
    Timeout,
    opened,
)
from linkerd_proxy.core.message import Streamed
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import ProxyError
from linkerd_proxy.io.streams import abort_nowait
from linkerd_proxy.testing import Authority, call, serving, tcp_origin
from linkerd_proxy.tls.identity import LiveIdentity
from tests.patience import PATIENCE

CUTS = int(os.environ.get("LINKERD_PROXY_TEST_CUTS", "40"))
SIZE = 200_000
GRPC = [("content-type", "application/grpc")]
SERVER, CLIENT = "server.mesh.local", "client.mesh.local"


@dataclass(frozen=True, slots=True)
class Proves(Identity):
    """An identity that an authority of the tests has issued."""

    authority: Authority
    name: str

    @asynccontextmanager
    async def open(self):
        yield LiveIdentity(self.name, self.authority.issue(self.name))


@asynccontextmanager
async def proxied(origin, *, meshed: bool):
    """Serve a proxy before an origin, or two with mutual TLS between them, and yield where."""
    async with AsyncExitStack() as exits:
        link = Connect(origin)
        if meshed:
            authority = Authority()
            server, client = Proves(authority, SERVER), Proves(authority, CLIENT)
            inbound = Terminate(server, require_identity=True) | Http() | Rescue() | Client() | Connect(origin)
            link = Originate(client, peer=SERVER) | Connect(await exits.enter_async_context(serving(inbound)))
        outbound = Http() | Rescue() | Timeout(PATIENCE) | Retry() | Client() | link
        yield await exits.enter_async_context(serving(outbound))


# --- in the middle of a body -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Breaks:
    """An HTTP/1 server that breaks off at any byte of a body, by FIN or RST, before the last."""

    dice: random.Random

    async def serve(self, connection) -> None:
        stream, dice = connection.stream, self.dice
        buffer = b""
        while b"\r\n\r\n" not in buffer:
            if not (data := await stream.receive_some(65536)):
                return
            buffer += data
        if dice.random() < 0.5:
            head, body = b"content-length: %d\r\n\r\n" % SIZE, b"x" * SIZE
        else:
            head, body = b"transfer-encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"
            body = body * (SIZE // 4096) + b"0\r\n\r\n"
        # Its very last bytes often: there a part looks most like the whole.
        cut = len(body) - dice.randint(1, 5) if dice.random() < 0.5 else dice.randrange(len(body))
        await stream.send_all(b"HTTP/1.1 200 OK\r\n" + head + body[:cut])
        if dice.random() < 0.5:
            for _ in range(dice.randrange(30)):  # not seconds: a reset that overtakes the head is no cut body
                await trio.lowlevel.checkpoint()
            abort_nowait(stream)


async def read_http1(address) -> str:
    """Ask as h11 does, and say how the answer ended."""
    stream = await trio.open_tcp_stream(address.host, address.port)
    async with stream:
        codec = h11.Connection(h11.CLIENT)
        await stream.send_all(codec.send(h11.Request(method="GET", target="/", headers=[("host", "test")])))
        codec.send(h11.EndOfMessage())
        while True:
            try:
                event = codec.next_event()
                if event is h11.NEED_DATA:
                    codec.receive_data(await stream.receive_some(65536))
            except (h11.RemoteProtocolError, trio.BrokenResourceError):
                return "an error"
            if isinstance(event, h11.Response) and event.status_code != 200:
                return f"{event.status_code}"
            if isinstance(event, h11.EndOfMessage):
                return "whole"


@pytest.mark.parametrize("meshed", [False, True], ids=["one proxy", "mutual TLS"])
async def test_no_http1_body_that_was_cut_looks_whole(meshed) -> None:
    seen = []
    async with tcp_origin(Breaks(random.Random(1)).serve) as origin, proxied(origin.address, meshed=meshed) as address:
        with trio.fail_after(PATIENCE):
            while len(seen) < CUTS:
                seen.append(await read_http1(address))
    # A reset may overtake the head: then nothing was answered, and the client is told so.
    assert set(seen) <= {"an error", "502"}
    assert seen.count("an error") > CUTS * 0.6


@dataclass(frozen=True, slots=True)
class BreaksStreams(Stack[Exchange]):
    """An HTTP/2 service that breaks off in the middle of a body: its stream, or the whole connection."""

    dice: random.Random
    grpc: bool

    @asynccontextmanager
    async def open(self):
        async def service(exchange: Exchange) -> None:
            whole = self.dice.random() < 0.5
            after = self.dice.randrange(1, 10)

            async def body():
                for _ in range(after):
                    yield b"\0\0\0\x27\x10" + b"x" * 10_000
                await trio.sleep(0.01 * self.dice.random())
                if whole:
                    abort_nowait(exchange.connection.stream)
                    await trio.sleep_forever()
                raise ValueError("the application broke")

            length = [] if self.grpc else [("content-length", str(SIZE))] * self.dice.randrange(2)
            await exchange.respond(Response(200, GRPC if self.grpc else length, Streamed(body())))

        yield service


async def read_http2(client, *, grpc: bool) -> str:
    request = Request("POST", "/a.B/C", GRPC, version="2") if grpc else Request("GET", "/", version="2")
    try:
        async with call(client, request.replace(authority="test")) as response:
            await response.body.read(1 << 20)
            if grpc:
                trailers = response.body.trailers
                status = response.headers.get("grpc-status") or (trailers and trailers.get("grpc-status"))
                return "whole" if status == "0" else f"grpc {status}"
            return "whole" if response.status == 200 else str(response.status)
    except ProxyError:
        return "an error"


@pytest.mark.parametrize("grpc", [False, True], ids=["http/2", "grpc"])
@pytest.mark.parametrize("meshed", [False, True], ids=["one proxy", "mutual TLS"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_no_http2_body_that_was_cut_looks_whole(meshed, grpc) -> None:
    seen = []
    async with (
        serving(Http() | BreaksStreams(random.Random(1), grpc)) as origin,
        proxied(origin, meshed=meshed) as address,
        opened(Client() | Connect(address)) as client,
    ):
        with trio.fail_after(PATIENCE):
            while len(seen) < CUTS:
                seen.append(await read_http2(client, grpc=grpc))
    assert set(seen) <= {"an error", "502", "grpc 14"}
    assert len(seen) == CUTS


# --- before the answer -------------------------------------------------------------------------


async def hangs(stream) -> None:
    await trio.sleep_forever()


async def closes(stream) -> None:
    await trio.lowlevel.checkpoint()


async def ends_its_half(stream) -> None:
    await stream.send_eof()
    await trio.sleep_forever()


async def resets(stream) -> None:
    abort_nowait(stream)
    await trio.lowlevel.checkpoint()


async def breaks_off_in_the_head(stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-le")


async def talks_nonsense(stream) -> None:
    await stream.send_all(b"\x16\x03\x01 SSH-2.0-what\r\n\r\n")
    await trio.sleep_forever()


FAULTS = {
    hangs: (504, "4", "UT"),
    closes: (502, "14", "UC"),
    ends_its_half: (502, "14", "UC"),
    resets: (502, "14", "UR"),
    breaks_off_in_the_head: (502, "14", ""),
    talks_nonsense: (502, "14", "UPE"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_fails_before_its_answer_is_told_and_its_connection_is_not_used_again(fault) -> None:
    """The statuses of HTTP; a call of gRPC, and the next request, that is answered."""
    status, grpc_status, code = FAULTS[fault]
    well = False

    async def serve(connection) -> None:
        stream = connection.stream
        while await stream.receive_some(65536):
            if not well:
                await fault(stream)
                return
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    deadline = Timeout(1 if fault is hangs else PATIENCE)
    async with tcp_origin(serve) as origin:
        stack = Http() | Rescue() | deadline | Retry() | Client("http/1.1") | Connect(origin.address)
        async with serving(stack) as address, opened(Client() | Connect(address)) as client:
            with trio.fail_after(PATIENCE):
                async with call(client, Request("POST", "/", authority="test", body=b"x")) as response:
                    assert response.status == status
                    assert response.headers.get("l5d-proxy-error", "").startswith(code)
                    assert await response.body.read() == b""
                request = Request("POST", "/a.B/C", GRPC, authority="test", version="2")
                async with call(client, request) as response:
                    assert (response.status, response.headers.get("grpc-status")) == (200, grpc_status)
                well = True
                async with call(client, Request("POST", "/", authority="test", body=b"x")) as response:
                    assert (response.status, await response.body.read()) == (200, b"ok")


@pytest.mark.parametrize("fault", [one for one in FAULTS if one is not hangs and one is not talks_nonsense])
async def test_a_well_backend_answers_in_its_place(fault) -> None:
    async def sick(connection) -> None:
        if await connection.stream.receive_some(65536):
            await fault(connection.stream)

    async def well(connection) -> None:
        while await connection.stream.receive_some(65536):
            await connection.stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with tcp_origin(sick) as one, tcp_origin(well) as two:
        balance = Balance(Static(one.address, two.address), lambda e: Client() | Connect(e.address))
        async with opened(Timeout(PATIENCE) | Retry() | balance) as service:
            for _ in range(20):
                async with call(service, Request(authority="test")) as response:
                    assert (response.status, await response.body.read()) == (200, b"ok")
