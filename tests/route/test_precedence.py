"""The compiled table of matches says what trying them all would say, and as fast for many as for few."""

import re
import sys
from urllib.parse import parse_qsl

from hypothesis import given, settings
from hypothesis import strategies as st

from linkerd_proxy.core.message import Request
from linkerd_proxy.route import Exact, Match, Prefix, Regex
from linkerd_proxy.route.table import Table

segments = st.sampled_from(["", "/", "/a", "/a/b", "/a/b/c", "/ab", "/a/", "/b", "/b/a"])
values = st.sampled_from(["1", "2"])
named_values = st.dictionaries(st.sampled_from(["x", "y"]), values | values.map(Regex), max_size=2)
patterns = st.sampled_from(["/a.*", "/.*", "/a/b", "/[ab]", ".*b"])
paths = segments.filter(bool).flatmap(lambda p: st.sampled_from([p, Exact(p), Prefix(p)])) | patterns.map(Regex)
some_matches = st.builds(Match, paths, named_values, named_values, st.sampled_from([None, "GET", "POST"]))
hosts = st.sampled_from(["", "a.com", "*.com", "*.a.com", "b.a.com"])
requests = st.builds(
    lambda path, query, headers, method, host: Request(method, path + query, headers, authority=host),
    segments.filter(bool),
    st.sampled_from(["", "?x=1", "?y=2", "?x=1&y=2"]),
    st.lists(st.tuples(st.sampled_from(["x", "y"]), values), max_size=3),
    st.sampled_from(["GET", "POST"]),
    st.sampled_from(["a.com", "b.a.com", "c.b.a.com", "com", "z.org", "x.com"]),
)


def _value(condition: Exact | Regex, value: str) -> bool:
    return bool(re.fullmatch(condition.value, value)) if isinstance(condition, Regex) else condition.value == value


def _oracle(rules: list[tuple[str, Match]], request: Request) -> int | None:
    """Try every match, and take the best of those that fit."""
    path, _, query = request.path.partition("?")
    pairs = parse_qsl(query)
    fitting = []
    for order, (host, match) in enumerate(rules):
        if host.startswith("*") and not request.authority.endswith(host[1:]):
            continue
        if host and not host.startswith("*") and host != request.authority:
            continue
        kind, text = type(match.path), match.path.value
        if kind is Regex and not re.fullmatch(text, path):
            continue
        if kind is Exact and text != path:
            continue
        if kind is Prefix and text != "/" and not f"{path}/".startswith(f"{text}/"):
            continue
        if match.method not in {None, request.method}:
            continue
        if not all(any(n == name and _value(c, v) for n, v in request.headers) for name, c in match.headers.items()):
            continue
        if not all(any(n == name and _value(c, v) for n, v in pairs) for name, c in match.query.items()):
            continue
        host_rank = (2, 0) if host and host[0] != "*" else (1, len(host)) if host else (0, 0)
        any_path = kind is Prefix and text == "/"
        path_rank = 0 if any_path else {Regex: 1, Prefix: 2, Exact: 3}[kind]
        length = len(text) if kind is Prefix else 0
        conditions = (len(match.headers), len(match.query), match.method is not None)
        fitting.append((host_rank, path_rank, length, *conditions, -order))
    return -max(fitting)[-1] if fitting else None


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(hosts, some_matches), min_size=1, max_size=12), st.lists(requests, min_size=1, max_size=8))
def test_the_compiled_table_says_what_trying_them_all_says(rules, asked) -> None:
    table = Table((host, match, order) for order, (host, match) in enumerate(rules))
    for request in asked:
        assert table.find(request) == _oracle(rules, request)


def test_many_rules_cost_no_more_than_few() -> None:
    def spent(count: int) -> int:
        """Return how many instructions of Python a search takes."""
        steps = 0

        def trace(frame, event, _):
            nonlocal steps
            frame.f_trace_opcodes = True
            steps += event == "opcode"
            return trace

        table = Table((f"h{i % 10}.com", Match(f"/svc{i}/v1"), i) for i in range(count))
        request = Request("GET", "/svc5/v1/things/17?x=1", authority="h5.com")
        assert table.find(request) == 5
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            table.find(request)
        finally:
            sys.settrace(before)
        return steps

    assert 0 < spent(2000) < 2 * spent(10)
