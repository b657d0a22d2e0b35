"""The Forwarded field: what RFC 7239 allows is read, and what is written is read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.errors import BadRequest
from linkerd_proxy.http.forwarded import make_element, parse_forwarded


@pytest.mark.parametrize(
    ("values", "elements"),
    [
        ([], []),
        ([""], []),
        ([" , ,"], []),
        (["for=192.0.2.60;proto=http;by=203.0.113.43"], [{"for": "192.0.2.60", "proto": "http", "by": "203.0.113.43"}]),
        (["For=_gazonk"], [{"for": "_gazonk"}]),
        (['For="[2001:db8:cafe::17]:4711"'], [{"for": "[2001:db8:cafe::17]:4711"}]),
        (["for=192.0.2.43, for=198.51.100.17"], [{"for": "192.0.2.43"}, {"for": "198.51.100.17"}]),
        (["for=a", "by=b ,, for=c"], [{"for": "a"}, {"by": "b"}, {"for": "c"}]),
        ([r'for="a\"b\\c, by=d;x"'], [{"for": r'a"b\c, by=d;x'}]),
        (['for=""'], [{"for": ""}]),
        (["for=[::1]:80;host=a:80"], [{"for": "[::1]:80", "host": "a:80"}]),
        (["for=a ; by=b"], [{"for": "a", "by": "b"}]),
    ],
)
def test_what_is_read(values, elements):
    assert parse_forwarded(values) == elements


@pytest.mark.parametrize(
    "value",
    [
        *("for", "for=", "=a", "for=a;", "for=a;;by=b", "for =a", "for= a", 'for="a', 'for=a"b"', "for=a b", "a;b=c"),
        *("for=a;FOR=b", 'for="a"b', "for=\u00e4", "\n", "for=a\n", "for=a,\n", 'for="\\', "for=a,by", "for=<a>"),
    ],
)
def test_what_is_refused(value):
    with pytest.raises(BadRequest, match="malformed Forwarded"):
        parse_forwarded([value])


texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)


@given(st.lists(st.tuples(texts, texts), max_size=5))
def test_what_is_written_is_read_back(pairs):
    line = ", ".join(make_element(by=by, for_=to) for by, to in pairs)
    assert parse_forwarded([line]) == [{"by": by, "for": to} for by, to in pairs]


@given(st.text(st.characters(max_codepoint=255), max_size=200) | st.text('for=by";, \\a', max_size=60))
def test_anything_is_read_or_refused(value):
    try:
        elements = parse_forwarded([value])
    except BadRequest:
        return
    assert parse_forwarded([", ".join(make_element(**element) for element in elements)]) == elements


def test_long_fields_take_no_long_time():
    for value in ('for="' + "\\a" * 8000, "for=" + "a" * 16000 + " ", " " * 16000, "a" * 16000, "," * 16000):
        try:
            parse_forwarded([value])
        except BadRequest:
            continue
