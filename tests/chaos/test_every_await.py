"""One exception at every await of the pipeline: only that stream or connection fails, and nothing is left behind."""

import logging
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from linkerd_proxy import (
    Body,
    Client,
    Connect,
    Connection,
    Detect,
    Dial,
    Exchange,
    Forward,
    Http,
    Metrics,
    Request,
    Rescue,
    Response,
    Retry,
    Route,
    Service,
    Stack,
    Timeouts,
    UpstreamReset,
    current_registry,
    opened,
)
from linkerd_proxy.address import Address, AnyAddress
from linkerd_proxy.testing import EOF, Script, call, http_origin, serving, tcp_origin
from tests.chaos.injection import Injector, Poked
from tests.descriptors import descriptors
from tests.patience import PATIENCE

ERRORS: dict[str, Callable[[], Exception] | None] = {
    "cancelled": None,
    "os-error": lambda: OSError("injected"),
    "runtime-error": lambda: RuntimeError("injected"),
    "proxy-error": lambda: UpstreamReset("injected"),
    "broken": lambda: trio.BrokenResourceError("injected"),
    "group": lambda: ExceptionGroup("injected", [ValueError("one"), OSError("two")]),
}


def _proxy(injector: Injector, http: AnyAddress, tcp: AnyAddress) -> Stack[Connection]:
    upstream = Client() | Poked[Dial](injector) | Connect(http)
    web = (
        Http()
        | Poked[Exchange](injector)
        | Metrics()
        | Rescue()
        | Timeouts(30, idle=25)
        | Retry()
        | Route({"/": upstream})
    )
    raw = Forward() | Poked[Dial](injector) | Connect(tcp)
    return Poked[Connection](injector) | Detect(http=web, otherwise=raw)


class _Pieces(Body):
    """A body of unknown length, in pieces."""

    __slots__ = ("pieces",)

    def __init__(self, *pieces: bytes) -> None:
        super().__init__()
        self.pieces = list(pieces)

    async def pull(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.pieces.pop(0) if self.pieces else b""


async def _tell(request: Request) -> Response:
    body = await request.body.read()
    half = len(body) // 2
    return Response(200, body=_Pieces(body[:half], body[half:], b"."))


async def _ask(service: Service[Exchange]) -> None:
    request = Request("POST", "/", body=_Pieces(*[b"x" * 1000] * 3), authority="a.example")
    async with call(service, request) as response:
        assert response.status == 200
        assert await response.body.read() == b"x" * 3000 + b"."


async def _talk(address: Address) -> None:
    async with await trio.open_tcp_stream(address.host, address.port) as stream:
        await (Script() >> b"\x00ping" << b"\x00ping" >> b"pong" << b"pong" >> EOF << EOF).play(stream)


async def _strike_http(version: str, injector: Injector, address: Address) -> None:
    client = Client(version) | Connect(address)  # type: ignore[arg-type]
    async with opened(client) as steady:
        await _ask(steady)
        await _victim(injector, lambda: _ask_once(client))
        await _ask(steady)
        await _ask_once(client)


async def _ask_once(client: Stack[Exchange]) -> None:
    async with opened(client) as service:
        await _ask(service)


async def _strike_tcp(injector: Injector, address: Address) -> None:
    async with await trio.open_tcp_stream(address.host, address.port) as steady:
        await (Script() >> b"\x00steady" << b"\x00steady").play(steady)
        await _victim(injector, lambda: _talk(address))
        await (Script() >> b"on" << b"on").play(steady)
        await _talk(address)


async def _victim(injector: Injector, talk: Callable[[], Awaitable[None]]) -> None:
    await trio.testing.wait_all_tasks_blocked()
    injector.armed = True
    try:
        await talk()
    except (Exception, BaseExceptionGroup):
        assert injector.hit is not None, "the victim failed although nothing struck"
    await trio.testing.wait_all_tasks_blocked()
    injector.armed = False


async def _strike(protocol: str, injector: Injector) -> None:
    with trio.fail_after(PATIENCE):
        async with (
            http_origin(_tell) as http,
            tcp_origin() as tcp,
            serving(_proxy(injector, http.address, tcp.address)) as address,
        ):
            assert isinstance(address, Address)
            if protocol == "tcp":
                await _strike_tcp(injector, address)
            else:
                await _strike_http(protocol, injector, address)


@pytest.mark.parametrize("protocol", ["http/1.1", "h2", "tcp"])
@pytest.mark.parametrize("kind", ERRORS)
async def test_one_exception_at_every_await(protocol: str, kind: str) -> None:
    logging.getLogger("linkerd_proxy").setLevel(logging.CRITICAL)  # hundreds of failures on purpose
    await _strike(protocol, Injector(0, None))  # what one run makes once (the reactor's epoll) is no leak
    tasks = trio.lowlevel.current_statistics().tasks_living
    before = descriptors()
    points: list[str] = []
    while True:
        injector = Injector(len(points) + 1, ERRORS[kind])
        where = "the strike"
        try:
            await _strike(protocol, injector)
            where = injector.hit or "no strike"
        except Exception as error:
            raise AssertionError(f"strike {injector.at} at {injector.hit!r} reached others") from error
        assert trio.lowlevel.current_statistics().tasks_living == tasks, f"tasks are left after {where}"
        assert descriptors() - before == set(), f"descriptors are left after {where}"
        assert current_registry().gauge("proxy_open_connections", "").value == 0, f"streams are left after {where}"
        if injector.hit is None:
            break
        points.append(injector.hit)
    assert len(points) >= (3 if ERRORS[kind] is None else 10), points
    logging.getLogger("linkerd_proxy").setLevel(logging.NOTSET)
