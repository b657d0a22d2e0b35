"""Which requests and connections go where, and what is changed about them on the way."""

from linkerd_proxy.route.match import Exact, GrpcMatch, Match, Prefix, Regex
from linkerd_proxy.route.redirect import Redirect, ReplacePrefix, Rewrite
from linkerd_proxy.route.route import Route
from linkerd_proxy.route.rules import GrpcRoute, HttpRoute, Rule

__all__ = [
    "Exact",
    "GrpcMatch",
    "GrpcRoute",
    "HttpRoute",
    "Match",
    "Prefix",
    "Redirect",
    "Regex",
    "ReplacePrefix",
    "Rewrite",
    "Route",
    "Rule",
]
