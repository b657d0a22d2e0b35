"""Redirects and rewrites of hosts and paths."""

import pytest

from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import BadRequest, InvalidConfiguration
from linkerd_proxy.http.handler import Handler
from linkerd_proxy.route import Exact, Match, Redirect, ReplacePrefix, Rewrite, Rule
from linkerd_proxy.testing import call, check_layer, memory_connection

BACK = "let through"


async def told(request: Request) -> Response:
    return Response(200, [("x", f"{request.authority} {request.path}")], BACK.encode())


async def location(match: Match, redirect: Redirect, url: str) -> tuple[int, str]:
    """Return status and location, or what was let through."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    stack = Rule([match], Handler(told), [redirect]).stack_for(match)
    async with call(stack, Request("GET", slash + path, authority=authority, scheme=scheme)) as response:
        return response.status, response.headers.get("location") or (await response.body.read()).decode()


ANY = Match()
FOO = "http://example.com/foo?a=b&c"


# Linkerd's table (linkerd/http/route/src/http/filter/redirect.rs), and what the Gateway API adds.
@pytest.mark.parametrize(
    ("redirect", "match", "url", "expected"),
    [
        (Redirect(), ANY, "http://example.com/foo", BACK),
        (Redirect(host="example.org"), ANY, FOO, "http://example.org/foo?a=b&c"),
        (Redirect(port=8080), ANY, FOO, "http://example.com:8080/foo?a=b&c"),
        (Redirect(port=80), ANY, "http://example.com:8080/foo?a=b&c", "http://example.com/foo?a=b&c"),
        (Redirect(scheme="https", port=443), ANY, "http://example.com:8080/foo", "https://example.com/foo"),
        (Redirect("/bar"), ANY, "http://example.com/foo", "http://example.com/bar"),
        (Redirect("/bar"), ANY, "http://example.com/foo?a=b&c=d", "http://example.com/bar"),
        (Redirect("/bar?a=b&c"), ANY, "http://example.com/foo", "http://example.com/bar?a=b&c"),
        (Redirect(ReplacePrefix("/qux")), Match("/foo"), "http://example.com/foo/bar", "http://example.com/qux/bar"),
        (
            Redirect(ReplacePrefix("/qux")),
            Match("/foo"),
            "http://example.com/foo/bar?a=b&c",
            "http://example.com/qux/bar?a=b&c",
        ),
        (Redirect(ReplacePrefix("/qux")), ANY, "http://example.com/foo/bar", "http://example.com/qux/foo/bar"),
        (Redirect(ReplacePrefix("/qux")), Match("/"), "http://example.com/foo/bar", "http://example.com/qux/foo/bar"),
        (Redirect(ReplacePrefix("/qux")), Match("/foo/"), "http://example.com/foo/bar", "http://example.com/qux/bar"),
        (Redirect(scheme="https"), ANY, FOO, "https://example.com/foo?a=b&c"),
        # Beyond it: ports that are kept, dropped, and those of IPv6.
        (Redirect(host="example.org"), ANY, "http://example.com:8080/foo", "http://example.org:8080/foo"),
        (Redirect(host="example.org"), ANY, "http://example.com:80/foo", "http://example.org/foo"),
        (Redirect(host="example.org", port=9000), ANY, "http://example.com/foo", "http://example.org:9000/foo"),
        (Redirect(scheme="https"), ANY, "http://example.com:8080/foo", "https://example.com/foo"),
        (Redirect(scheme="https"), ANY, "https://example.com:8443/foo", BACK),
        (Redirect(port=8443), ANY, "http://[::1]:8080/foo", "http://[::1]:8443/foo"),
        (Redirect(ReplacePrefix("/")), Match("/foo"), "http://example.com/foo", "http://example.com/"),
        (Redirect(ReplacePrefix("/")), Match("/foo"), "http://example.com/foo/bar", "http://example.com/bar"),
        (Redirect(ReplacePrefix("/x/")), Match("/foo"), "http://example.com/foo/", "http://example.com/x/"),
    ],
)
async def test_the_table_of_redirects(redirect, match, url, expected) -> None:
    status, found = await location(match, redirect, url)
    assert (status, found) == (200 if expected == BACK else 302, expected)


def test_a_prefix_is_replaced_only_where_one_was_matched() -> None:
    with pytest.raises(InvalidConfiguration, match="needs a match by prefix"):
        Rule([Match(Exact("/foo/bar"))], filters=[Redirect(ReplacePrefix("/qux"))])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_the_status_is_the_one_that_was_asked_for(status) -> None:
    assert (await location(ANY, Redirect(scheme="https", status=status), FOO))[0] == status


async def test_a_client_that_names_no_host_can_only_go_where_the_redirect_names_one() -> None:
    with pytest.raises(BadRequest, match="named no host"):
        await location(ANY, Redirect(scheme="https"), "http:///foo")
    assert await location(ANY, Redirect(host="a.org"), "http:///foo") == (302, "http://a.org/foo")


async def asked(rewrite: Rewrite, request: Request) -> str:
    async with call(rewrite | Handler(told), request) as response:
        return response.headers["x"]


async def test_rewrites_change_host_and_path() -> None:
    request = Request("GET", "/a/b?q=1", authority="old.com:80")
    assert await asked(Rewrite(), request) == "old.com:80 /a/b?q=1"
    assert await asked(Rewrite("/x"), request) == "old.com:80 /x"
    assert await asked(Rewrite(ReplacePrefix("/x", "/a")), request) == "old.com:80 /x/b?q=1"
    assert await asked(Rewrite(ReplacePrefix("/x", "/z")), request) == "old.com:80 /a/b?q=1"
    assert await asked(Rewrite(ReplacePrefix("/x", "/a/bc")), request) == "old.com:80 /a/b?q=1"
    assert await asked(Rewrite(host="new.com"), request) == "new.com /a/b?q=1"
    assert await asked(Rewrite("/x"), Request("OPTIONS", "*", authority="a")) == "a *"


def make() -> Exchange:
    async def respond(_: Response) -> None: ...

    return Exchange(Request("GET", "/a", authority="a"), respond, memory_connection()[1])


async def test_they_are_layers() -> None:
    await check_layer(Rewrite(ReplacePrefix("/x", "/a"), host="b"), make)
    await check_layer(Redirect(), make)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Redirect("x"), "begins with a slash"),
        (lambda: Rewrite("x"), "begins with a slash"),
        (lambda: ReplacePrefix("x"), "begins with a slash"),
        (lambda: Redirect("/a b"), "is no path"),
        (lambda: Rewrite("/a?b\r\nc"), "is no path"),
        (lambda: ReplacePrefix("/a?b"), "keeps the query"),
        (lambda: Redirect(host="a.com:80"), "write port="),
        (lambda: Redirect(status=200), "write one of"),
        (lambda: Redirect(scheme="ftp"), "write 'http' or 'https'"),
        (lambda: Redirect(port=0), "from 1 to 65535"),
        (lambda: Redirect(host="*.a.com"), "without a wildcard"),
        (lambda: Rewrite(host=""), "is no host"),
    ],
)
def test_what_can_not_be_is_refused(build, text) -> None:
    with pytest.raises(InvalidConfiguration, match=text):
        build()
