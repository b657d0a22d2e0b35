"""How long a test waits for what must come: a hang ends it, and a loaded machine does not."""

PATIENCE = 120.0
"""Seconds, by the real clock. Only a failure takes them."""
