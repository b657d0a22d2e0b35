"""A Trio-native micro-proxy, as layers that you compose."""

from linkerd_proxy._version import __version__

__all__ = ["__version__"]
