"""The fault of whoever set the proxy up."""

from __future__ import annotations

__all__ = ["InvalidConfiguration"]


class InvalidConfiguration(ValueError):
    """A value given to a layer or an option can't be used; the message names it and the remedy."""
