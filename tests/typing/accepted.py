"""What mypy --strict must accept."""

from linkerd_proxy import (
    Balance,
    Client,
    Connect,
    Connection,
    Detect,
    Dial,
    Dns,
    Endpoint,
    Exchange,
    Forward,
    Http,
    Layer,
    Limit,
    Metrics,
    ProxyProtocol,
    Request,
    Rescue,
    Response,
    Route,
    SendProxyProtocol,
    Service,
    Stack,
    Static,
    Timeout,
    Towards,
    handler,
    opened,
)
from linkerd_proxy.testing import call

upstream: Stack[Exchange] = Client() | Connect("127.0.0.1:9000")
timed: Stack[Exchange] = Timeout(5) | Client() | Connect()
web: Stack[Connection] = Http() | Rescue() | Route({"/": timed, "/api": upstream})
tcp: Stack[Connection] = Forward() | Connect()
proxied: Stack[Connection] = ProxyProtocol() | tcp
sent: Stack[Dial] = SendProxyProtocol() | Connect()
proxy: Stack[Connection] = Detect(http=web, otherwise=tcp)

# A layer for any work serves exchanges at the head of a chain unless it is told otherwise; elsewhere it fits in.
slow_tcp: Stack[Connection] = Timeout[Connection](60) | Forward() | Connect()
slow_dial: Stack[Dial] = Timeout[Dial](1) | Connect()
few: Stack[Connection] = Limit[Connection](100) | Http() | Limit[Exchange](10) | Client() | Limit[Dial](5) | Connect()
counted: Stack[Connection] = Metrics[Connection]() | Http() | Metrics() | Client() | Metrics[Dial]() | Connect()

# Layers compose without an end, too, and a layer of one's own is a class with one method.
half: Layer[Connection, Dial] = Http() | Client()


class Tagged(Layer[Exchange, Exchange]):
    __slots__ = ()

    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        work.request.headers.add("x-tag", "1")
        await inner(work)


tagged: Stack[Connection] = Http() | Tagged() | upstream


@handler
async def hello(request: Request) -> Response:
    return Response(200, body=request.path.encode())


served: Stack[Connection] = Http() | hello


async def use() -> bytes:
    async with opened(upstream) as service, call(service, Request()) as response:
        return await response.body.read()


def balanced(endpoint: Endpoint) -> Stack[Exchange]:
    return Client() | Towards(endpoint) | Connect()


balanced_http: Stack[Connection] = Http() | Balance(Static("10.0.0.1:80"), balanced)
balanced_tcp: Stack[Connection] = Forward() | Balance(Dns("web.example:80"), lambda e: Connect(e.address))
