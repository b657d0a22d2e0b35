"""TLS connections go down the branch for the name that the client asks for."""

from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.core.work import Connection, Tls
from linkerd_proxy.errors import DetectTimeout, InvalidConfiguration, NoRoute
from linkerd_proxy.io.rewind import Rewound
from linkerd_proxy.route import TlsRoute
from linkerd_proxy.testing import memory_connection
from tests.io.test_client_hello import real_hello


@dataclass(frozen=True, slots=True)
class Place(Stack[Connection]):
    """Reads a connection to its end, and notes what came."""

    name: str
    seen: list[tuple[str, bytes]] = field(default_factory=list)

    @asynccontextmanager
    async def open(self):
        async def service(connection: Connection) -> None:
            self.seen.append((self.name, b"".join([bytes(data) async for data in connection.stream])))

        yield service


async def sent(stack: Stack[Connection], *pieces: bytes) -> None:
    client, connection = memory_connection()
    async with opened(stack) as service, trio.open_nursery() as nursery:

        async def send() -> None:
            for piece in pieces:
                await client.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            await client.send_eof()

        nursery.start_soon(send)
        try:
            await service(connection)
        except BaseException:
            nursery.cancel_scope.cancel()
            raise


@pytest.mark.parametrize(
    ("name", "branch"),
    [
        ("web.example.com", "exact"),
        ("WEB.example.com", "exact"),
        ("api.example.com", "wild"),
        ("a.b.example.com", "wild"),
        ("x.deep.example.com", "deep"),
        ("example.com", "rest"),
        ("notexample.com", "rest"),
        (None, "rest"),
    ],
)
async def test_the_name_decides_and_every_byte_is_put_back(name: str | None, branch: str) -> None:
    seen: list[tuple[str, bytes]] = []
    route = TlsRoute(
        {
            "*.example.com": Place("wild", seen),
            "web.Example.com": Place("exact", seen),
            "*.deep.example.com": Place("deep", seen),
        },
        otherwise=Place("rest", seen),
    )
    hello = real_hello(name)
    await sent(route, hello + b"more")
    await sent(route, hello[:1], hello[1:100], hello[100:], b"more")
    assert seen == [(branch, hello + b"more")] * 2


async def test_what_is_no_tls_goes_to_otherwise_at_once() -> None:
    seen: list[tuple[str, bytes]] = []
    await sent(TlsRoute({}, otherwise=Place("rest", seen)), b"GET / HTTP/1.1\r\n\r\n")
    await sent(TlsRoute({}, otherwise=Place("rest", seen)))
    assert seen == [("rest", b"GET / HTTP/1.1\r\n\r\n"), ("rest", b"")]


async def test_without_a_branch_there_is_no_route() -> None:
    route = TlsRoute({"a.com": Place("a")})
    with pytest.raises(NoRoute, match=r"no route for the server name 'b\.com'"):
        await sent(route, real_hello("b.com"))
    with pytest.raises(NoRoute, match="clients that name no server by TLS"):
        await sent(route, b"hello")


async def test_a_probe_that_says_nothing_is_no_failure() -> None:
    await sent(TlsRoute({"a.com": Place("a")}))


async def test_a_slow_hello_is_not_waited_for_for_ever(autojump_clock) -> None:
    _, connection = memory_connection()
    async with opened(TlsRoute({"a.com": Place("a")}, timeout=3)) as service:
        with pytest.raises(DetectTimeout, match="after 3 s; look into the client"):
            await service(connection)
    assert trio.current_time() == pytest.approx(3)


async def test_the_deadline_is_for_the_hello_only(autojump_clock) -> None:
    seen: list[tuple[str, bytes]] = []
    hello = real_hello("a.com")
    client, connection = memory_connection()
    async with opened(TlsRoute({"a.com": Place("a", seen)}, timeout=3)) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, connection)
        await client.send_all(hello)
        await trio.sleep(60)
        await client.send_all(b"late")
        await client.send_eof()
    assert seen == [("a", hello + b"late")]


async def test_after_a_handshake_its_name_counts_and_nothing_is_read() -> None:
    seen: list[tuple[str, bytes]] = []
    client, connection = memory_connection(tls=Tls(server_name="a.com"))
    await client.send_all(b"plain")
    await client.send_eof()
    async with opened(TlsRoute({"a.com": Place("a", seen)})) as service:
        await service(connection)
    assert seen == [("a", b"plain")]


async def test_what_was_put_back_before_is_put_back_again() -> None:
    seen: list[tuple[str, bytes]] = []
    hello = real_hello("a.com")
    client, connection = memory_connection()
    await client.send_all(b"more")
    await client.send_eof()
    async with opened(TlsRoute({"a.com": Place("a", seen)})) as service:
        await service(connection.with_stream(Rewound(connection.stream, hello)))
    assert seen == [("a", hello + b"more")]


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: TlsRoute({}), "no routes"),
        (lambda: TlsRoute({"a b": Place("a")}), "is no host"),
        (lambda: TlsRoute({"a.com:443": Place("a")}), "leave out the port"),
        (lambda: TlsRoute({"a.com": Place("a"), "A.com": Place("b")}), "twice"),
        (lambda: TlsRoute({"a.com": Place("a")}, timeout=0), "more than 0 seconds"),
    ],
)
def test_what_can_not_be_is_refused(build, text) -> None:
    with pytest.raises(InvalidConfiguration, match=text):
        build()


def test_the_tree_shows_the_names() -> None:
    assert str(TlsRoute({"a.com": Place("a")}, Place("b"))).splitlines() == [
        "TlsRoute()",
        "├─ a.com: Place(name='a', seen=[])",
        "└─ otherwise: Place(name='b', seen=[])",
    ]
