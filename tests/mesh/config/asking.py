"""Clients that notice every request which is lost."""

from linkerd_proxy.core.message import Request
from linkerd_proxy.core.stack import opened
from linkerd_proxy.http.client import Client
from linkerd_proxy.io.dial import dial
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.testing import call


class Asking:
    """Clients that ask all the time, none of which repeats what failed."""

    def __init__(self) -> None:
        self.done = False
        self.count = 0

    async def http1(self, address) -> None:
        """Keep a connection until an answer says close."""
        while not self.done:
            async with await dial(address) as stream:
                closing = False
                while not closing and not self.done:
                    await stream.send_all(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nping")
                    answer = b""
                    while not answer.endswith(b"ping"):
                        chunk = await stream.receive_some()
                        assert chunk, f"the connection ended instead of an answer: {answer!r}"
                        answer += chunk
                    assert answer.startswith(b"HTTP/1.1 200 "), answer
                    closing = b"connection: close" in answer.lower()
                    self.count += 1

    async def http2(self, address) -> None:
        async with opened(Client(protocol="h2") | Connect(address)) as client:
            while not self.done:
                async with call(client, Request("POST", "/x", authority="x", body=b"ping")) as response:
                    assert (response.status, await response.body.read()) == (200, b"ping")
                self.count += 1

    async def tcp(self, address) -> None:
        while not self.done:
            async with await dial(address) as stream:
                await stream.send_all(b"ping")
                assert await stream.receive_some() == b"ping"
                await stream.send_eof()
                assert await stream.receive_some() == b""
            self.count += 1

    async def one_tcp_connection(self, address) -> None:
        async with await dial(address) as stream:
            while not self.done:
                await stream.send_all(b"ping")
                assert await stream.receive_some() == b"ping"
                self.count += 1
