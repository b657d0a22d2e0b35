"""What users and upstreams write: statuses, timeouts, and when to come back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.retry.conditions import parse_grpc, parse_http, parse_limit
from linkerd_proxy.retry.grpc_timeout import format_grpc_timeout, parse_grpc_timeout


@pytest.mark.parametrize(
    ("text", "statuses"),
    [
        ("", set()),
        ("5xx", set(range(500, 600))),
        ("gateway-error", {502, 503, 504}),
        ("429, 500-502", {429, 500, 501, 502}),
        (" Gateway-Error ,500,", {500, 502, 503, 504}),
    ],
)
def test_http_statuses_are_named_as_in_linkerds_annotations(text, statuses):
    assert parse_http(text) == statuses


@pytest.mark.parametrize("text", ["4xx", "200-599", "399", "600", "05", "500-", "5xx;502", "٥٠٠"])
def test_what_names_no_failure_of_http_is_refused(text):
    with pytest.raises(InvalidConfiguration, match="names no failures of HTTP"):
        parse_http(text)


def test_grpc_statuses_go_by_their_names():
    assert parse_grpc("cancelled, deadline-exceeded,INTERNAL,resource_exhausted,unavailable") == {
        *("1", "4", "13", "8", "14")
    }
    with pytest.raises(InvalidConfiguration, match="give some of cancelled, unknown"):
        parse_grpc("14")


@pytest.mark.parametrize("text", ["", "-1", "101", "1.0", "²", "0001"])
def test_limits_are_small_numbers(text):
    with pytest.raises(InvalidConfiguration, match="0 to 100"):
        parse_limit(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1H", 3600), ("2M", 120), ("3S", 3), ("40m", 0.04), ("50u", 5e-5), ("60n", 6e-8), ("0m", 0)]
)
def test_grpc_timeouts_are_understood(text, seconds):
    assert parse_grpc_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "S", "123456789S", "-1S", "1s", "1.5S", "1SS"])
def test_malformed_grpc_timeouts_say_nothing(text):
    assert parse_grpc_timeout(text) is None


@given(st.floats(0, 1e9))
def test_grpc_timeouts_that_we_write_are_never_longer_than_meant(seconds):
    text = format_grpc_timeout(seconds)
    back = parse_grpc_timeout(text)
    assert back is not None
    assert back <= seconds + 1e-9 * max(1, seconds)
    assert back >= seconds * (1 - 1e-5) - 1e-6
