"""Linkerd's service profiles: conditions, response classes, overrides and hints."""

from collections import Counter

import pytest

from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import opened
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.handler import handler
from linkerd_proxy.retry.conditions import parse_http
from linkerd_proxy.route.match import Regex
from linkerd_proxy.route.profile import (
    AllOf,
    AnyOf,
    MethodIs,
    Not,
    PathMatches,
    ProfileRoute,
    ResponseClass,
    ServiceProfile,
    StatusBetween,
    WeightedDst,
    WithProfile,
)
from linkerd_proxy.testing import call
from tests.route.test_rules import named

BOOKS = PathMatches(Regex(r"/books/[^/]*"))
POST = MethodIs("POST")


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (AllOf(), True),
        (AnyOf(), False),
        (BOOKS, True),
        (PathMatches(Regex("/books")), False),
        (PathMatches(Regex(".*ooks.*")), True),
        (PathMatches(Regex("/books|/books/7")), True),
        (POST, True),
        (MethodIs("post"), False),
        (Not(POST), False),
        (AllOf([BOOKS, POST]), True),
        (AllOf([BOOKS, Not(POST)]), False),
        (AnyOf([Not(BOOKS), POST]), True),
        (AnyOf([Not(BOOKS), Not(POST)]), False),
        (Not(AnyOf([Not(AllOf([BOOKS])), AnyOf()])), True),
    ],
)
def test_conditions_of_requests(condition, holds) -> None:
    assert condition.holds(Request("POST", "/books/7?page=2")) is holds


def test_the_first_response_class_that_fits_decides() -> None:
    route = ProfileRoute(
        response_classes=[
            ResponseClass(AllOf([StatusBetween(500, 599), Not(StatusBetween(503, 503))])),
            ResponseClass(StatusBetween(500, 599), is_failure=False),
            ResponseClass(StatusBetween(404, 404)),
            ResponseClass(StatusBetween(429, 430)),
        ]
    )
    verdicts = {status: route.classify(status) for status in (200, 404, 429, 500, 503, 533)}
    assert verdicts == {200: "success", 404: "failure", 429: "failure", 500: "failure", 503: "success", 533: "failure"}
    assert route.failure_statuses == "404,429-430,500-502,504-599"
    assert {404, 429, 430, 500, 533} <= parse_http(route.failure_statuses)
    # What no class can tell is judged as everywhere: an error, and a gRPC status.
    assert route.classify(503, error="UC") == "failure"
    assert route.classify(0, error="UF") == "failure"
    assert route.classify(200, grpc_status="14") == "failure"


def test_without_classes_a_5xx_is_a_failure() -> None:
    assert ProfileRoute().failure_statuses == "500-599"


async def test_the_first_route_that_holds_serves_and_the_rest_goes_to_the_default() -> None:
    profile = ServiceProfile(
        [
            ProfileRoute(AllOf([BOOKS, POST]), labels={"route": "write"}, timeout=3.0),
            ProfileRoute(BOOKS, labels={"route": "read"}, is_retryable=True),
        ]
    )
    hints: list[ProfileRoute] = []

    def serve(route: ProfileRoute):
        hints.append(route)
        return named(route.labels.get("route", "default"))

    stack = WithProfile(profile, serve)
    async with opened(stack) as service:
        served = []
        for method, path in (("POST", "/books/1"), ("GET", "/books/1"), ("GET", "/authors")):
            async with call(service, Request(method, path)) as response:
                served.append((await response.body.read()).decode())
    assert served == ["write", "read", "default"]
    assert [(hint.timeout, hint.is_retryable) for hint in hints] == [(3.0, False), (None, True), (None, False)]
    assert str(stack).splitlines() == [
        "WithProfile()",
        "├─ route=write: handler(answer)",
        "├─ route=read: handler(answer)",
        "└─ 3: handler(answer)",
    ]


async def test_what_the_routes_share_is_opened_once() -> None:
    seen: list[str] = []

    async def note(request: Request) -> Response:
        seen.append(request.path)
        return Response()

    shared = handler(note)
    async with opened(WithProfile(ServiceProfile([ProfileRoute(BOOKS)]), lambda _: shared)) as service:
        for path in ("/books/1", "/x"):
            async with call(service, Request("GET", path)):
                pass
    assert seen == ["/books/1", "/x"]


# --- Linkerd's tests of overrides (linkerd/app/integration/src/tests/profile_dst_overrides.rs) ----------------------


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"leaf": 400}),
        ([("a", 1)], {"a": 400}),
        ([("a", 3), ("b", 1)], {"a": 300, "b": 100}),
        ([("a", 1), ("b", 0)], {"a": 400}),
        ([("a", 0), ("b", 0)], {"leaf": 400}),
    ],
)
async def test_overrides_split_the_traffic(overrides, expected) -> None:
    profile = ServiceProfile(dst_overrides=[WeightedDst(authority, weight) for authority, weight in overrides])
    served = Counter[str]()
    async with opened(profile.destination(named("leaf"), named)) as service:
        for _ in range(400):
            async with call(service, Request()) as response:
                served[(await response.body.read()).decode()] += 1
    assert served == pytest.approx(expected, abs=4)


@pytest.mark.parametrize("bounds", [(500, 400), (99, 200), (200, 600)])
def test_statuses_that_can_not_be_are_refused(bounds) -> None:
    with pytest.raises(InvalidConfiguration, match="StatusBetween"):
        StatusBetween(*bounds)
