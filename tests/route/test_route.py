"""Requests go down the branch whose key matches best."""

import pytest

from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import opened
from linkerd_proxy.errors import InvalidConfiguration, NoRoute
from linkerd_proxy.http.handler import Handler
from linkerd_proxy.route import Route
from linkerd_proxy.route.key import Key, parse_key
from linkerd_proxy.route.match import Match
from linkerd_proxy.route.table import Table
from linkerd_proxy.testing import call


def named(name: str) -> Handler:
    async def answer(_: Request) -> Response:
        return Response(200, body=name.encode())

    return Handler(answer)


async def ask(route: Route, authority: str, path: str, method: str = "GET") -> str:
    async with call(route, Request(method, path, authority=authority)) as response:
        return (await response.body.read()).decode()


KEYS = [
    "/",
    "/api",
    "/api/v1",
    "/static/",
    "example.com",
    "example.com/api",
    "example.com:8443/api",
    "*.example.com",
    "*.a.example.com/deep",
    "*.example.com:9000/api",
    "[::1]/six",
    "only.org/here",
]


@pytest.mark.parametrize(
    ("authority", "path", "key"),
    [
        ("", "/", "/"),
        ("other", "/x", "/"),
        ("other", "/api", "/api"),
        ("other", "/api/", "/api"),
        ("other", "/api/v2", "/api"),
        ("other", "/api/v1", "/api/v1"),
        ("other", "/api/v1/x", "/api/v1"),
        ("other", "/api/v1?/api", "/api/v1"),
        ("other", "/api?x=1", "/api"),
        ("other", "/apis", "/"),
        ("other", "/API", "/"),
        ("other", "/?/api", "/"),
        ("other", "/static", "/static/"),
        ("other", "/static/a.css", "/static/"),
        ("other", "*", "/"),
        ("other:443", "", "/"),
        ("example.com", "/", "example.com"),
        ("EXAMPLE.com", "/api/v1", "example.com/api"),
        ("example.com.", "/api", "example.com/api"),
        ("example.com:80", "/api", "example.com/api"),
        ("example.com:8443", "/api", "example.com:8443/api"),
        ("example.com:8443", "/other", "example.com"),
        ("www.example.com", "/api", "*.example.com"),
        ("www.example.com:80", "/", "*.example.com"),
        ("www.example.com:9000", "/api", "*.example.com:9000/api"),
        ("b.a.example.com", "/deep/er", "*.a.example.com/deep"),
        ("b.a.example.com", "/shallow", "*.example.com"),
        ("a.example.com", "/deep", "*.example.com"),
        ("notexample.com", "/api", "/api"),
        (".example.com", "/", "/"),
        ("[::1]", "/six", "[::1]/six"),
        ("[::1]:8080", "/six/x", "[::1]/six"),
        ("[::2]:8080", "/six/x", "/"),
        ("only.org", "/here", "only.org/here"),
        ("only.org", "/elsewhere", "/"),
        ("only.org", "/api", "/api"),
    ],
)
async def test_the_best_match_wins(authority: str, path: str, key: str) -> None:
    for keys in (KEYS, KEYS[::-1]):
        assert await ask(Route({name: named(name) for name in keys}), authority, path) == key


async def test_no_match_names_the_request_and_the_nearest_route() -> None:
    route = Route({"/api": named("a"), "example.com/api": named("b"), "example.com/web": named("c")})
    with pytest.raises(NoRoute) as caught:
        await ask(route, "Example.com:80", "/wob?secret=1")
    assert str(caught.value) == (
        "Route: no route for host 'Example.com:80' and path '/wob'; "
        "the nearest is 'example.com/web'; add one for it, or '/' for everything"
    )
    assert (caught.value.status, caught.value.closes) == (404, False)


async def test_what_an_error_repeats_of_a_request_is_bounded() -> None:
    with pytest.raises(NoRoute) as caught:
        await ask(Route({"/api": named("a")}), "h" * 9000, "/" + "p" * 9000)
    assert len(str(caught.value)) < 500


async def test_a_branch_named_twice_is_opened_once() -> None:
    shared = named("shared")
    route = Route({"/a": shared, "/b": shared})
    async with opened(route) as service, call(service, Request("GET", "/b")) as response:
        assert await response.body.read() == b"shared"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("", "a route's key is empty"),
        ("/a?b", "is no path"),
        ("/a b", "is no path"),
        ("/a#b", "is no path"),
        ("exa mple/", "'exa mple' is no host"),
        ("*", "is no host"),
        ("*.", "is no host"),
        ("a.*.com", "is no host"),
        ("*example.com", "is no host"),
        ("http://example.com", "without a scheme"),
        ("example.com:http", "'http' is no port"),
        ("example.com:65536", "'65536' is no port"),
        ("-a.com", "is no host"),
        ("::1/x", "is no host"),
    ],
)
def test_a_key_that_cannot_be_read_is_refused(key: str, text: str) -> None:
    with pytest.raises(InvalidConfiguration, match=text):
        Route({key: named("x")})


@pytest.mark.parametrize("keys", [("/a", "/a/"), ("a.com", "A.com/"), ("/", "/" * 2)])
def test_two_keys_that_match_the_same_are_refused(keys: tuple[str, str]) -> None:
    with pytest.raises(InvalidConfiguration, match="match the same"):
        Route({key: named("x") for key in keys})


def test_no_route_at_all_is_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="Route has no routes"):
        Route({})


def test_changing_the_mapping_later_changes_nothing() -> None:
    routes = {"/": named("x")}
    route = Route(routes)
    routes["/later"] = named("y")
    assert list(route.routes) == ["/"]


def test_the_tree_shows_the_keys() -> None:
    assert str(Route({"/api": named("x"), "a.com": named("y")})).splitlines() == [
        "Route()",
        "├─ /api: handler(answer)",
        "└─ a.com: handler(answer)",
    ]
    assert repr(Route({"/": named("x")})) == "Route({'/': handler(answer)})"


def test_keys_are_read_and_written() -> None:
    assert parse_key("A.com:80/x/") == Key("a.com:80", "/x")
    assert str(parse_key("a.com")) == "a.com/"
    assert str(parse_key("/")) == "/"


def test_a_hostile_path_or_host_costs_little() -> None:
    table = Table((f"*.d{i}.org", Match(f"/p{i}"), i) for i in range(100))
    assert table.find(Request("GET", "/p7/" + "/" * 8000, authority="a." * 4000 + "d7.org")) == 7
    assert table.find(Request("GET", "/" * 8000, authority="." * 8000)) is None
