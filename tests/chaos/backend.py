"""Servers to be killed: each a child of this process, which starts it again. Usage: backend.py KIND COUNT REST LOG

KIND is ``http1`` (asyncio and sockets, nothing of ours), ``http2`` (our own server) or ``grpc`` (grpcio). Each time a
server listens, its number, process and port are written to standard output. REST is the seconds for which one that died
stays away, or ``told``: until a byte comes on standard input. LOG gets a line with method and target for each request that a server has got whole.

``/ok/...`` is answered soon, ``/slow/...`` and ``/chunked/...`` with a million bytes that take half a second. gRPC has a
call ``Held`` too, whose stream never ends by itself.
SIGTERM ends a server as a good one ends: what was asked is answered, and every connection is told.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from importlib import import_module

CHUNKS, PAUSE = 20, 0.025
CHUNK = b"x" * 50_000
SIZE = CHUNKS * len(CHUNK)
SOON = 0.002  # seconds


def main(kind: str, count: str, rest: str, log: str) -> None:
    if kind == "http2":
        import_module("linkerd_proxy.http.h2.server")  # here, so that the children start at once
    written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    # A port that is taken once and kept: who connects while the server is away must be refused.
    held = []
    for _ in range(int(count)):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 0))
        held.append(sock)
    ports = [sock.getsockname()[1] for sock in held]
    children: dict[int, int] = {}
    for number in range(int(count)):
        children[start(kind, number, ports[number], written)] = number
    signal.signal(signal.SIGTERM, lambda *_: end(children))
    while True:
        pid, _ = os.waitpid(-1, 0)
        number = children.pop(pid)
        if rest == "told":
            os.read(0, 1)
        else:
            time.sleep(float(rest))
        children[start(kind, number, ports[number], written)] = number


def end(children: dict[int, int]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    os._exit(0)


def start(kind: str, number: int, port: int, log: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        KINDS[kind](port, lambda text: os.write(log, f"{text}\n".encode()), lambda: say(number, port))
    finally:
        os._exit(0)


def say(number: int, port: int) -> None:
    os.write(1, f"{number} {os.getpid()} {port}\n".encode())


# --- HTTP/1 ------------------------------------------------------------------------------------


class Http1:
    def __init__(self, log) -> None:
        self.log = log
        self.ending = asyncio.Event()
        self.left = asyncio.Event()
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            # One that is kept gets a last answer that says so: to close it earlier might cost a request that comes just
            # then. Who has no more requests closes it himself.
            while not await self.answer((await reader.readuntil(b"\r\n\r\n")).decode(), reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.connections -= 1
            self.left.set()

    async def answer(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer, and return whether that has said that it was the last one."""
        for line in head.lower().split("\r\n")[1:]:
            name, _, value = line.partition(":")
            if name == "content-length":
                await reader.readexactly(int(value))
        method, target, _ = head.split(" ", 2)
        self.log(f"{method} {target}")
        kind = target.split("/")[1]
        if kind == "ok":
            await asyncio.sleep(SOON)
        framing = {
            "ok": f"content-length: {len(target)}",
            "slow": f"content-length: {SIZE}",
            "chunked": "transfer-encoding: chunked",
        }[kind]
        last = self.ending.is_set()
        closing = "connection: close\r\n" if last else ""
        writer.write(f"HTTP/1.1 200 OK\r\n{closing}{framing}\r\n\r\n".encode())
        if kind == "ok":
            writer.write(target.encode())
        else:
            for _ in range(CHUNKS):
                writer.write(CHUNK if kind == "slow" else b"%x\r\n%s\r\n" % (len(CHUNK), CHUNK))
                await writer.drain()
                await asyncio.sleep(PAUSE)
            if kind == "chunked":
                writer.write(b"0\r\n\r\n")
        await writer.drain()
        return last

    async def run(self, port: int, ready) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.ending.set)
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(("127.0.0.1", port))
        server = await asyncio.start_server(self.serve, sock=listening)
        ready()
        await self.ending.wait()
        # Who has connected is served, for the system has told him that it stands: those too whom nobody has accepted yet.
        waiting = []
        with suppress(BlockingIOError):
            while True:
                waiting.append(listening.accept()[0])
        server.close()
        for sock in waiting:
            await loop.connect_accepted_socket(
                lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(), self.serve), sock
            )
        while self.connections:
            self.left.clear()
            await self.left.wait()


def http1(port: int, log, ready) -> None:
    asyncio.run(Http1(log).run(port, ready))


# --- HTTP/2 ------------------------------------------------------------------------------------


def http2(port: int, log, ready) -> None:
    import trio

    from linkerd_proxy import Drain, Http, Request, Response, handler, open_listeners, serve
    from linkerd_proxy.core.message import Streamed
    from linkerd_proxy.mesh.signals import drain_on_signals

    async def million():
        for _ in range(CHUNKS):
            yield CHUNK
            await trio.sleep(PAUSE)

    async def answer(request: Request) -> Response:
        await request.body.read(1 << 20)
        log(f"{request.method} {request.path}")
        kind = request.path.split("/")[1]
        if kind == "ok":
            await trio.sleep(SOON)
            return Response(200, body=request.path.encode())
        headers = [("content-length", str(SIZE))] if kind == "slow" else []
        return Response(200, headers, Streamed(million()))

    async def run() -> None:
        listeners = await open_listeners(f"127.0.0.1:{port}")
        drain = Drain(grace=10)
        async with trio.open_nursery() as nursery:
            await nursery.start(drain_on_signals, drain, nursery.cancel_scope)
            ready()
            await serve(Http() | handler(answer), listeners, drain=drain)
            nursery.cancel_scope.cancel()

    trio.run(run)


# --- gRPC --------------------------------------------------------------------------------------


def grpc(port: int, log, ready) -> None:
    import threading
    from concurrent import futures

    import grpc as grpcio

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())

    def echo(request: bytes, context) -> bytes:
        log(f"POST {request.decode()}")
        time.sleep(SOON)
        return request

    def many(request: bytes, context):
        log(f"POST {request.decode()}")
        for _ in range(CHUNKS):
            yield CHUNK
            time.sleep(PAUSE)

    def held(request: bytes, context):
        over = threading.Event()
        context.add_callback(over.set)
        yield CHUNK
        over.wait()

    class Handlers(grpcio.GenericRpcHandler):
        def service(self, call):
            if call.method.endswith("/Held"):
                return grpcio.unary_stream_rpc_method_handler(held)
            if call.method.endswith("/Many"):
                return grpcio.unary_stream_rpc_method_handler(many)
            return grpcio.unary_unary_rpc_method_handler(echo)

    server = grpcio.server(futures.ThreadPoolExecutor(64), handlers=[Handlers()])
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    ready()
    ended.wait()
    server.stop(10).wait()


KINDS = {"http1": http1, "http2": http2, "grpc": grpc}

if __name__ == "__main__":
    main(*sys.argv[1:])
