"""HTTPRoutes and GRPCRoutes: what matches, what comes first, and where it goes."""

import pytest

from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import opened
from linkerd_proxy.errors import InvalidConfiguration, NoBackend, NoRoute
from linkerd_proxy.http.handler import Handler
from linkerd_proxy.route import (
    Exact,
    GrpcMatch,
    GrpcRoute,
    HttpRoute,
    Match,
    Prefix,
    Redirect,
    Regex,
    ReplacePrefix,
    Rewrite,
    Route,
    Rule,
)
from linkerd_proxy.testing import call


def named(name: str) -> Handler:
    async def answer(request: Request) -> Response:
        return Response(200, [("x-path", request.path), ("x-host", request.authority)], body=name.encode())

    return Handler(answer)


async def ask(
    route: Route, path: str = "/", *, method: str = "GET", headers=(), authority: str = "a.com", version="1.1"
) -> str:
    async with call(route, Request(method, path, headers, authority=authority, version=version)) as response:
        return (await response.body.read()).decode()


def one_host(**matches: Match) -> Route:
    return Route([HttpRoute([Rule([match], named(name)) for name, match in matches.items()])])


# --- Linkerd's tests of client policies (linkerd/app/integration/src/tests/client_policy.rs) -----------------------


async def test_a_route_without_rules_answers_404() -> None:
    with pytest.raises(NoRoute, match="there are no rules at all") as caught:
        await ask(Route([HttpRoute()]))
    assert caught.value.status == 404
    with pytest.raises(NoRoute):
        await ask(Route([]))


async def test_a_route_without_rules_leaves_requests_to_the_next_one() -> None:
    assert await ask(Route([HttpRoute(hosts=["a.com"]), HttpRoute([Rule(backend=named("any"))])])) == "any"


async def test_a_rule_without_a_backend_answers_500() -> None:
    with pytest.raises(NoBackend, match="the rule for '/x' has no backend") as caught:
        await ask(Route([HttpRoute([Rule()])]), "/x?secret=1")
    assert caught.value.status == 500


@pytest.mark.parametrize(
    ("headers", "served"),
    [
        ([("x-hello-city", "sf")], "sf"),
        ([("x-hello-city", "san francisco")], "sf"),
        ([("X-Hello-City", "austin")], "austin"),
        ([("x-hello-city", "Austin")], "default"),
        ([("x-hello-city", "paris"), ("x-hello-city", "sf")], "sf"),
        ([("x-hello-city", "austin"), ("x-hello-city", "sf")], "sf"),
        ([("x-hello-city", "sf, austin")], "default"),
        ([], "default"),
    ],
)
async def test_headers_steer(headers, served) -> None:
    route = one_host(
        sf=Match(headers={"x-hello-city": Regex("sf|san francisco")}),
        austin=Match(headers={"X-Hello-City": "austin"}),
        default=Match(),
    )
    assert await ask(route, headers=headers) == served


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/goodbye", "goodbye"),
        ("/goodbye/sf", "goodbye"),
        ("/goodbyes", "default"),
        ("/hello/sf", "sf"),
        ("/hello/san-francisco", "sf"),
        ("/hello/san-francisco/x", "default"),
        ("/hello/austin", "austin"),
        ("/hello/austin?x", "austin"),
        ("/hello/austin/", "default"),
        ("/hello/paris", "default"),
    ],
)
async def test_paths_steer(path, served) -> None:
    route = one_host(
        default=Match(),
        goodbye=Match("/goodbye"),
        sf=Match(Regex("/hello/(sf|san-francisco)")),
        austin=Match(Exact("/hello/austin")),
    )
    assert await ask(route, path) == served


# --- precedence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (Match(Exact("/a/b")), Match("/a/b")),
        (Match(Exact("/a/b")), Match(Regex("/a/b.*"), {"x": "1"})),
        (Match("/a/b"), Match("/a", {"x": "1", "y": "2"}, {"q": "1"}, "GET")),
        (Match("/a"), Match(Regex("/a/b"))),
        (Match(Regex("/a/b")), Match("/", {"x": "1"})),
        (Match("/a", {"x": "1", "y": "2"}), Match("/a", {"x": "1"}, {"q": "1"}, "GET")),
        (Match("/a", {"x": "1"}), Match("/a", {}, {"q": "1"}, "GET")),
        (Match("/a", {}, {"q": "1"}), Match("/a", method="GET")),
        (Match("/a", method="GET"), Match("/a")),
        (Match(Regex("/a/.*"), {"x": "1"}), Match(Regex("/a/b"))),
    ],
)
async def test_the_more_telling_match_wins_wherever_it_stands(better: Match, worse: Match) -> None:
    headers = [("x", "1"), ("y", "2")]
    for order in ({"better": better, "worse": worse}, {"worse": worse, "better": better}):
        assert await ask(one_host(**order), "/a/b?q=1", headers=headers) == "better"


async def test_the_earlier_of_equals_wins() -> None:
    assert await ask(one_host(first=Match(Regex("/a.*")), second=Match(Regex("/.*b"))), "/ab") == "first"
    assert (
        await ask(
            one_host(first=Match("/", {"x": "1"}), second=Match("/", {"y": "1"})), headers=[("y", "1"), ("x", "1")]
        )
        == "first"
    )


async def test_an_alternation_matches_the_whole_path() -> None:
    # Linkerd searches and then looks whether that spans the path, so that its /a|/ab fails for /ab.
    assert await ask(one_host(it=Match(Regex("/a|/ab"))), "/ab") == "it"


@pytest.mark.parametrize(
    ("query", "served"),
    [
        ("?q=1", "one"),
        ("?q=2&q=1", "one"),
        ("?q=2", "two"),
        ("?Q=1", "none"),
        ("?q=%31", "one"),
        ("?q=a+b", "space"),
        ("?q", "empty"),
        ("?", "none"),
        ("", "none"),
    ],
)
async def test_query_parameters_steer(query, served) -> None:
    route = one_host(
        one=Match(query={"q": "1"}),
        two=Match(query={"q": Regex("[2-9]")}),
        space=Match(query={"q": "a b"}),
        empty=Match(query={"q": ""}),
        none=Match(),
    )
    assert await ask(route, f"/{query}") == served


async def test_methods_are_compared_in_their_case() -> None:
    route = one_host(get=Match(method="GET"), other=Match())
    assert await ask(route) == "get"
    assert await ask(route, method="get") == "other"


async def test_one_of_several_matches_is_enough() -> None:
    route = Route(
        [HttpRoute([Rule([Match("/a"), Match("/b", method="POST")], named("it")), Rule(backend=named("no"))])]
    )
    assert [await ask(route, path) for path in ("/a", "/b")] == ["it", "no"]
    assert await ask(route, "/b", method="POST") == "it"


async def test_hosts_come_before_paths() -> None:
    route = Route(
        [
            HttpRoute([Rule([Match(Exact("/x"))], named("any"))]),
            HttpRoute([Rule([Match("/")], named("wild"))], hosts=["*.a.com"]),
            HttpRoute([Rule([Match("/")], named("host"))], hosts=["b.a.com", "c.org"]),
        ]
    )
    assert await ask(route, "/x", authority="B.a.com:80") == "host"
    assert await ask(route, "/x", authority="c.org") == "host"
    assert await ask(route, "/x", authority="z.a.com") == "wild"
    assert await ask(route, "/x", authority="a.com") == "any"


# --- gRPC -----------------------------------------------------------------------------------------------------------

GRPC = [("content-type", "application/grpc+proto")]


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/pkg.Greeter/Hello", "both"),
        ("/pkg.Greeter/Bye", "service"),
        ("/pkg.Other/Hello", "method"),
        ("/pkg.Other/Bye", "any"),
        ("/pkg.Greeter/Hello/x", "http"),
        ("/pkg.Greeter", "http"),
        ("/pkg.Greeter/", "http"),
        ("/xpkg.Greeter/Bye", "any"),
    ],
)
async def test_grpc_services_and_methods_steer(path, served) -> None:
    rules = {
        "any": GrpcMatch(),
        "method": GrpcMatch(method="Hello"),
        "service": GrpcMatch("pkg.Greeter"),
        "both": GrpcMatch("pkg.Greeter", "Hello"),
    }
    route = Route(
        [HttpRoute([Rule(backend=named("http"))]), GrpcRoute([Rule([m], named(name)) for name, m in rules.items()])]
    )
    assert await ask(route, path, method="POST", headers=GRPC, version="2") == served
    assert await ask(route, path, headers=GRPC, version="2") == "http"
    assert await ask(route, path, method="POST", headers=[("content-type", "text/plain")], version="2") == "http"
    assert await ask(route, path, method="POST", headers=GRPC) == "http"  # HTTP/1.1 can't carry a call


async def test_grpc_headers_steer_and_no_match_takes_every_call() -> None:
    route = Route([GrpcRoute([Rule(backend=named("any")), Rule([GrpcMatch(headers={"x": "1"})], named("x"))])])
    assert await ask(route, "/a/b", method="POST", headers=GRPC, version="2") == "any"
    assert await ask(route, "/a/b", method="POST", headers=[*GRPC, ("x", "1")], version="2") == "x"
    with pytest.raises(NoRoute):
        await ask(route, "/a/b", method="POST", version="2")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("match", [GrpcMatch(), GrpcMatch("a", "b"), GrpcMatch("a"), GrpcMatch(method="b")])
async def test_no_call_comes_in_http1(match, version) -> None:
    route = Route([GrpcRoute([Rule([match], named("x"))])])
    assert await ask(route, "/a/b", method="POST", headers=GRPC, version="2") == "x"
    with pytest.raises(NoRoute, match=f"routes for gRPC take HTTP/2 alone, and this came in HTTP/{version}"):
        await ask(route, "/a/b", method="POST", headers=GRPC, version=version)


# --- filters in rules -----------------------------------------------------------------------------------------------


async def test_a_rule_tells_its_filters_the_matched_prefix() -> None:
    rule = Rule([Match("/old"), Match("/older")], named("x"), [Rewrite(ReplacePrefix("/new"))])
    route = Route([HttpRoute([rule])])
    for path, rewritten in (("/old/a?q", "/new/a?q"), ("/older/a", "/new/a"), ("/old", "/new")):
        async with call(route, Request("GET", path)) as response:
            assert response.headers["x-path"] == rewritten


async def test_a_rule_with_several_matches_opens_its_branch_once() -> None:
    shared = named("x")
    rule = Rule([Match("/a"), Match("/b")], shared, [Rewrite("/c")])
    async with opened(Route([HttpRoute([rule])])) as service:
        for path in ("/a", "/b"):
            async with call(service, Request("GET", path)) as response:
                assert response.headers["x-path"] == "/c"


async def test_a_redirect_needs_no_backend() -> None:
    route = Route([HttpRoute([Rule(filters=[Redirect(scheme="https")])])])
    async with call(route, Request("GET", "/x", authority="a.com")) as response:
        assert (response.status, response.headers["location"]) == (302, "https://a.com/x")


def test_replacing_a_prefix_that_was_not_matched_is_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="needs a match by prefix"):
        Rule([Match(Exact("/foo/bar"))], filters=[Redirect(ReplacePrefix("/qux"))])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Match("a"), "'a' is no path"),
        (lambda: Match(""), "empty path"),
        (lambda: Match(Exact("/a?b")), "is no path"),
        (lambda: Regex("("), r"Regex\('\('\) can't be read"),
        (lambda: Match(headers={"a b": "1"}), "'a b' is no header's name"),
        (lambda: Match(method=""), "no method"),
        (lambda: GrpcMatch("a/b"), "no service"),
        (lambda: GrpcMatch(method="a b"), "no method"),
        (lambda: HttpRoute(hosts=["a b"]), "is no host"),
        (lambda: HttpRoute([Rule([GrpcMatch()])]), "HttpRoute can't match .* give it a Match"),
        (lambda: GrpcRoute([Rule([Match()])]), "give it a GrpcMatch"),
    ],
)
def test_what_can_not_be_is_refused(make, text) -> None:
    with pytest.raises(InvalidConfiguration, match=text):
        make()


def test_the_tree_shows_what_is_matched() -> None:
    route = Route(
        [
            HttpRoute([Rule([Match("/a", {"x": "1"}, {"q": Regex("2")}, "GET")], named("x"))], hosts="a.com"),
            GrpcRoute([Rule([GrpcMatch("s.S")], named("y")), Rule()]),
        ]
    )
    assert str(route).splitlines() == [
        "Route()",
        "├─ a.com GET /a x: =1 ?q~2: handler(answer)",
        "├─ grpc s.S/*: handler(answer)",
        "└─ grpc */*: no backend",
    ]


def test_matches_say_how_they_are_made() -> None:
    for match in (
        Match(),
        Match(Exact("/a"), {"x": Regex("1")}, {"q": "2"}, "GET"),
        GrpcMatch(),
        GrpcMatch("s", "m", {"x": "1"}),
    ):
        assert (
            eval(
                repr(match), {"Match": Match, "GrpcMatch": GrpcMatch, "Exact": Exact, "Prefix": Prefix, "Regex": Regex}
            )
            == match
        )
    assert repr(Match("/a", {"X": "1"})) == "Match(Prefix(value='/a'), headers={'x': Exact(value='1')})"
