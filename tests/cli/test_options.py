import logging

import pytest

from linkerd_proxy.cli.options import parse_duration, parse_log_level
from linkerd_proxy.errors import InvalidConfiguration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("250ms", 0.25), ("30s", 30), ("1.5m", 90), ("2h", 7200), ("1d", 86400), (" 1s ", 1)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1 s", "1e3s", "1w", "٣s"])
def test_what_is_no_duration(text):
    with pytest.raises(InvalidConfiguration, match="is no duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("info", logging.INFO),
        ("WARN", logging.WARNING),
        ("trace", logging.DEBUG),
        ("off", logging.CRITICAL + 1),
        ("warn,linkerd=info", logging.INFO),
        ("warn,linkerd=debug,hickory=error", logging.DEBUG),
        ("hickory=error", logging.WARNING),
    ],
)
def test_log_levels_in_linkerds_words(text, level):
    assert parse_log_level(text) == level


@pytest.mark.parametrize("text", ["", "loud", "warn,linkerd=loud", "warn,"])
def test_what_is_no_log_level(text):
    with pytest.raises(InvalidConfiguration, match="names no log level"):
        parse_log_level(text)
