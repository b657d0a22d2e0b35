"""Spreading work over endpoints, and keeping it from those that are sick."""
