"""When to come back, as an answer says it."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.core.message import Response, Whole
from linkerd_proxy.core.pushback import NEVER, grpc_pushback_of, retry_after_of
from linkerd_proxy.headers import Headers


@pytest.mark.parametrize(
    ("text", "date", "seconds"),
    [
        ("0", None, 0),
        ("7", None, 7),
        ("  7\t", None, 7),
        ("99999999999", None, 1e9),
        ("9" * 400, None, 1e9),
        ("-1", None, None),
        ("1.5", None, None),
        ("\u00b2", None, None),
        ("soon", None, None),
        ("", None, None),
        ("Wed, 25 Nov 2026 00:00:10 GMT", "Wed, 25 Nov 2026 00:00:00 GMT", 10),
        ("Wed Nov 25 00:00:10 2026", "Wed, 25 Nov 2026 00:00:00 GMT", 10),
        ("Wednesday, 25-Nov-26 00:00:10 GMT", "Wed, 25 Nov 2026 00:00:00 GMT", 10),
        ("Wed, 25 Nov 2026 00:00:00 GMT", "Wed, 25 Nov 2026 00:00:10 GMT", 0),
        ("Wed, 25 Nov 1998 00:00:00 GMT", None, 0),
        ("Wed, 25 Nov 1998 00:00:00 GMT", "rubbish", 0),
        ("Wed, 99 Nov 2026 00:00:00 GMT", None, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(text, date, seconds):
    headers = Headers([("retry-after", text)])
    if date is not None:
        headers.add("date", date)
    assert retry_after_of(headers) == seconds


def test_what_does_not_say_it_says_nothing():
    assert retry_after_of(Headers()) is None
    assert grpc_pushback_of(Response(503)) is None


def test_a_date_without_the_answers_own_counts_from_now():
    soon = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert 3000 < retry_after_of(Headers([("retry-after", soon)])) <= 3600


@given(st.text(alphabet=st.characters(max_codepoint=255)), st.text(alphabet=st.characters(max_codepoint=255)))
def test_whatever_it_says_it_is_a_time_or_nothing(after, date):
    found = retry_after_of(Headers([("retry-after", after), ("date", date)]))
    assert found is None or 0 <= found <= 1e9


@pytest.mark.parametrize(
    ("text", "seconds"), [("2500", 2.5), ("0", 0), ("9" * 400, 1e6), ("-1", NEVER), ("soon", NEVER), ("", NEVER)]
)
@pytest.mark.parametrize("in_head", [True, False])
def test_a_pushback_stands_in_the_trailers_or_in_the_head(text, seconds, in_head):
    fields = [("grpc-retry-pushback-ms", text)]
    response = Response(200, fields) if in_head else Response(200, (), Whole(b"", Headers(fields)))
    assert grpc_pushback_of(response) == seconds
