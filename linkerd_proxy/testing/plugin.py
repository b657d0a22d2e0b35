"""Fixtures for tests of proxies; pytest loads this by its entry point."""
