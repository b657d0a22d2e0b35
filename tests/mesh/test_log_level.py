import logging

import pytest

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.log_level import apply_log_level, parse_log_level, shown_log_level


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
        ("25", 25),
    ],
)
def test_log_levels_in_linkerds_words(text, level):
    assert parse_log_level(text) == level


@pytest.mark.parametrize("text", ["", "loud", "warn,linkerd=loud", "warn,"])
def test_what_is_no_log_level(text):
    with pytest.raises(InvalidConfiguration, match="names no log level"):
        parse_log_level(text)


@pytest.mark.parametrize("text", ["off", "debug", "25", "warn,linkerd_proxy.balance=info,linkerd_proxy.io=off"])
def test_what_is_shown_can_be_applied_again(text):
    try:
        apply_log_level(text)
        shown = shown_log_level()
        apply_log_level("error")
        apply_log_level(shown)
        assert shown_log_level() == shown == text
    finally:
        apply_log_level("warn")
        logging.getLogger("linkerd_proxy").setLevel(logging.NOTSET)
