"""Fixtures of the rooms that are attacked."""

from tests.tls.conftest import issuer

__all__ = ["issuer"]
