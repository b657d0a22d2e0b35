"""Patterns from somebody who is not the operator."""

import re
import sys
from types import ModuleType

import pytest

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.route import Regex
from linkerd_proxy.route.untrusted import compile_untrusted


@pytest.fixture(autouse=True)
def _without_re2(monkeypatch):
    monkeypatch.setitem(sys.modules, "re2", None)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b",
        "(a*)*",
        "(a|a)*b",
        "(?:a|b)+",
        "((a+))+",
        "((ab|c)d)*",
        "(?P<x>a+){2,}",
        "(a{2,}){3}",
        "(?i:a+)*",
        r"(\w+\s?)*x",
        "([a-z]+)*",
        r"(a)\1",
        "(?P<x>a)(?P=x)",
        "(a?){30}a{30}",
        "(a?a)+b",
        "(a{0,1}a)+b",
        "a?" * 30 + "a" * 30,
        "a{0,1}" * 30 + "a" * 30,
        ".*a" * 9,
    ],
)
def test_what_may_run_for_ever_is_refused(pattern) -> None:
    with pytest.raises(InvalidConfiguration, match="may run for ever: write another, or install google-re2"):
        Regex(pattern, trusted=False)


@pytest.mark.parametrize(
    "pattern",
    [
        "/hello/(sf|san-francisco)",
        "/api/v[0-9]+/.*",
        r"/a\(b+\)+c",
        "[(a+)+]+",
        "[]+(]+x",
        r"[\](a+)]+",
        "(abc)+",
        "(ab)?c?",
        "a+?b",
        "a+b+c*",
        "(?=x)x.*",
        "(/a|/b)?/c",
        "",
    ],
)
def test_what_ends_soon_is_taken(pattern) -> None:
    compiled = Regex(pattern, trusted=False).pattern
    for text in ("/hello/sf", "/api/v1/x", "abcabc", "/a/c", "x"):
        assert bool(compiled.fullmatch(text)) == bool(re.fullmatch(pattern, text))


def test_what_can_not_be_read_is_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="can't be read"):
        Regex("(", trusted=False)


def test_re2_takes_them_all_where_it_is_installed(monkeypatch) -> None:
    engine = ModuleType("re2")

    def compile_(pattern: str) -> re.Pattern[str]:
        if pattern == "(?=x)":
            raise ValueError("invalid perl operator: (?=")
        return re.compile(pattern)

    engine.compile = compile_  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "re2", engine)
    assert compile_untrusted("(a+)+b").fullmatch("aab")
    with pytest.raises(InvalidConfiguration, match=r"RE2 can't read the pattern '\(\?=x\)': invalid perl operator"):
        compile_untrusted("(?=x)")


def test_a_regex_says_that_it_is_not_trusted() -> None:
    assert repr(Regex("a", trusted=False)) == "Regex(value='a', trusted=False)"
