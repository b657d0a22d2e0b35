"""Fixtures that every test may use."""

import logging

import pytest


@pytest.fixture(autouse=True)
def log_level():
    """Undo what a test does to the level of the log, so that the next one sees what it logs."""
    logger = logging.getLogger("linkerd_proxy")
    before = logger.level
    yield
    logger.setLevel(before)
