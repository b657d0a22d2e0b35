"""The fault of a layer, the user's or ours."""

from __future__ import annotations

from linkerd_proxy.errors.proxy_error import ProxyError
from linkerd_proxy.errors.upstream import BadGateway

__all__ = ["AlreadyAnswered", "NotAnswered"]


class NotAnswered(BadGateway):
    """A service returned without having answered its exchange."""

    code = "NA"
    remedy = "the innermost layer must await exchange.respond(...) exactly once"


class AlreadyAnswered(ProxyError):
    """A service answered an exchange a second time: a bug in a layer."""

    code = "AA"
    remedy = "call exchange.respond(...) with one final response only"
