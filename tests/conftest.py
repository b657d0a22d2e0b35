"""Fixtures that every test may use."""

import logging

import pytest
from hypothesis import HealthCheck, settings

# The same examples each time, and no limit of time on any: a search for new ones is asked for by name
# (--hypothesis-profile=default), and never what makes a change fail that has nothing to do with it.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def log_level():
    """Undo what a test does to the level of the log, so that the next one sees what it logs."""
    logger = logging.getLogger("linkerd_proxy")
    before = logger.level
    yield
    logger.setLevel(before)
