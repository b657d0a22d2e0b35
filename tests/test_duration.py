"""Durations as people write them."""

import pytest

from linkerd_proxy.duration import parse_duration
from linkerd_proxy.errors import InvalidConfiguration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("250ms", 0.25), ("30s", 30), ("1.5m", 90), ("2h", 7200), ("1d", 86400), (" 1s ", 1)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1 s", "1s1s", "9999999999s", "1e3s", "1w", "٣s"])
def test_what_is_no_duration(text):
    with pytest.raises(InvalidConfiguration, match="is no duration"):
        parse_duration(text)
