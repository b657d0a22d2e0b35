"""Which requests go where."""

from linkerd_proxy.route.route import Route

__all__ = ["Route"]
