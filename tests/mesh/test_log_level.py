import logging

import pytest

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.log_level import parse_log_level


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
