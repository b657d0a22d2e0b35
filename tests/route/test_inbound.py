"""Routes and policies together, as an inbound server has them.

Linkerd's tests of its inbound HTTP policies: linkerd/app/inbound/src/policy/http/tests.rs.
"""

import pytest

from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.core.work import Exchange, Tls
from linkerd_proxy.errors import GrpcStatus
from linkerd_proxy.http.handler import handler
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.policy import Authorization, Authorize, RateLimit, ServerPolicy, TlsAuthenticated
from linkerd_proxy.route import (
    GrpcMatch,
    GrpcRoute,
    HttpRoute,
    Inject,
    Match,
    RequestHeaderModifier,
    Route,
    Rule,
)
from linkerd_proxy.testing import call, memory_connection


async def tell(request: Request) -> Response:
    return Response(200, [("x-seen", request.headers.get("x-test") or "")])


APP = handler(tell)
WEB = Authorize(ServerPolicy([Authorization(authentication=TlsAuthenticated(["web.ns"]), name="web")], loopback=False))
ANYBODY = Authorize(ServerPolicy([Authorization()], loopback=False))


async def ask(stack: Stack[Exchange], request: Request, identity: str | None = None) -> Response:
    connection = memory_connection(tls=Tls(peer_identity=identity))[1]
    async with call(stack, request, connection=connection) as response:
        await response.body.read()
        return response


def server(*rules: Rule) -> Stack[Exchange]:
    return Rescue() | Route([HttpRoute(rules)])


async def test_each_route_has_its_own_authorizations() -> None:
    stack = server(Rule([Match(method="GET")], ANYBODY | APP), Rule([Match(method="POST")], WEB | APP))
    assert (await ask(stack, Request("GET"))).status == 200
    assert (await ask(stack, Request("POST"))).status == 403
    assert (await ask(stack, Request("POST"), "web.ns")).status == 200
    denied = await ask(stack, Request("POST"), "other.ns")
    assert denied.headers["l5d-proxy-error"].startswith("AD Authorize: client other.ns at ")


async def test_no_route_answers_404() -> None:
    stack = server(Rule([Match(method="POST")], WEB | APP))
    assert (await ask(stack, Request("GET"), "web.ns")).status == 404


async def test_a_header_filter_changes_what_the_application_sees() -> None:
    stack = server(Rule(backend=WEB | APP, filters=[RequestHeaderModifier(add={"x-test": "testing"})]))
    assert (await ask(stack, Request(), "web.ns")).headers["x-seen"] == "testing"


async def test_an_injected_failure_has_its_own_status() -> None:
    stack = server(Rule(backend=APP, filters=[Inject(1, 418, message="im a teapot")]))
    response = await ask(stack, Request(), "web.ns")
    assert (response.status, response.headers["l5d-proxy-error"]) == (418, "FI Inject: im a teapot")


@pytest.mark.parametrize(
    ("path", "identity", "status"),
    [
        ("/foo.bar.Bah/baz", "web.ns", None),
        ("/foo.bar.Bah/baz", None, "7"),
        ("/foo.bar.Bah/qux", "web.ns", "5"),
        ("/foo.bar.Bah/bad", "web.ns", "15"),
    ],
)
async def test_grpc_routes_authorize_refuse_and_fail_in_grpcs_own_words(path, identity, status) -> None:
    stack = Rescue() | Route(
        [
            GrpcRoute(
                [
                    Rule([GrpcMatch("foo.bar.Bah", "baz")], WEB | APP),
                    Rule([GrpcMatch("foo.bar.Bah", "bad")], WEB | APP, [Inject(1, grpc_status=GrpcStatus.DATA_LOSS)]),
                ]
            )
        ]
    )
    request = Request("POST", path, [("content-type", "application/grpc")], version="2")
    response = await ask(stack, request, identity)
    assert (response.status, response.headers.get("grpc-status")) == (200, status)


async def test_rate_limits_allow_and_deny_by_identity(autojump_clock) -> None:
    async with opened(Rescue() | RateLimit(total=10, identity=1) | WEB | APP) as service:

        async def status(identity: str | None) -> tuple[int, str]:
            connection = memory_connection(tls=Tls(peer_identity=identity))[1]
            async with call(service, Request(), connection=connection) as response:
                return response.status, response.headers.get("l5d-proxy-error") or ""

        assert (await status("web.ns"))[0] == 200
        code, why = await status("web.ns")
        assert code == 429
        assert why.startswith("RL RateLimit: the rate of 1 requests a second of web.ns is used up")
        assert (await status("other.ns"))[0] == 403
