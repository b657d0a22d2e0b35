"""A DNS server that fails for minutes: requests go on, and it is asked no more often than before."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from linkerd_proxy import Balance, Client, Dns, Http, Request, Response, handler, opened, serve
from linkerd_proxy.testing import MemoryConnect, MemoryListener, call

dns_message = pytest.importorskip("dns.message")
rcode = pytest.importorskip("dns.rcode")
rrset = pytest.importorskip("dns.rrset")


async def hello(_: Request) -> Response:
    return Response(200, body=b"hello")


class Server:
    """A DNS server on a port of loopback: when it was asked for what, and what it says now."""

    def __init__(self) -> None:
        self.mood = "answers"
        self.asked: list[tuple[float, str, str]] = []

    async def run(self, task_status=trio.TASK_STATUS_IGNORED) -> None:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.bind(("127.0.0.1", 0))
            task_status.started(f"127.0.0.1:{sock.getsockname()[1]}")
            while True:
                wire, peer = await sock.recvfrom(4096)
                answer = self.answer(wire)
                if answer is not None:
                    await sock.sendto(answer, peer)

    def answer(self, wire: bytes) -> bytes | None:
        query = dns_message.from_wire(wire)
        question = query.question[0]
        kind = question.rdtype.name
        self.asked.append((trio.current_time(), question.name.to_text(), kind))
        if self.mood == "is silent":
            return None
        response = dns_message.make_response(query)
        if self.mood == "answers" and kind == "A":
            response.answer.append(rrset.from_text(question.name, 5, "IN", "A", "192.0.2.1", "192.0.2.2"))
        elif self.mood == "fails":
            response.set_rcode(rcode.SERVFAIL)
        elif self.mood == "denies":
            response.set_rcode(rcode.NXDOMAIN)
        elif self.mood == "talks nonsense":
            return b"\0\1\2\3" + wire[4:9]
        return response.to_wire()

    def times(self, kind: str) -> list[float]:
        return [when for when, _, asked in self.asked if asked == kind]


@pytest.mark.parametrize("mood", ["fails", "denies", "is silent", "talks nonsense"])
async def test_requests_go_on_while_the_dns_is_away_for_minutes(mood, nursery, mock_clock) -> None:
    """The clock is moved by hand as long as answers come over a socket, and jumps where nobody answers."""
    server = Server()
    where = await nursery.start(server.run)
    resolve = Dns("web.example:80", (where,), timeout=2.0, dice=random.Random(1))
    listener = MemoryListener()
    await nursery.start(serve, Http() | handler(hello), [listener])
    answered = 0
    async with opened(Balance(resolve, lambda _: Client() | MemoryConnect(listener), dice=random.Random(1))) as service:

        async def ask() -> None:
            nonlocal answered
            async with call(service, Request(authority="web.example")) as response:
                assert (response.status, await response.body.read()) == (200, b"hello")
            answered += 1

        await ask()
        server.mood = mood
        began = trio.current_time()
        asked = len(server.times("A"))
        for _ in range(600):  # five minutes, a request every half second
            mock_clock.jump(0.5)
            await trio.testing.wait_all_tasks_blocked(0.002)
            await ask()
        away = trio.current_time() - began
        questions = len(server.times("A")) - asked
        server.mood = "answers"
        for _ in range(30):
            mock_clock.jump(0.5)
            await trio.testing.wait_all_tasks_blocked(0.002)
            await ask()
        assert len(server.times("A")) > asked + questions
    assert away == pytest.approx(300)
    assert answered == 631
    assert {name for _, name, _ in server.asked} == {"web.example."}
    # One question in five seconds at most, or the floor would be none.
    assert 10 <= questions <= 60
