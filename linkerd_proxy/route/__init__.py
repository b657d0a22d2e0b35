"""Which requests and connections go where, and what is changed about them on the way."""

from linkerd_proxy.route.filters import RequestHeaderModifier, ResponseHeaderModifier
from linkerd_proxy.route.inject import Inject
from linkerd_proxy.route.match import Exact, GrpcMatch, Match, Prefix, Regex
from linkerd_proxy.route.mirror import Mirror
from linkerd_proxy.route.opaque import OpaqueRoute
from linkerd_proxy.route.redirect import Redirect, ReplacePrefix, Rewrite
from linkerd_proxy.route.route import Route
from linkerd_proxy.route.rules import GrpcRoute, HttpRoute, Rule
from linkerd_proxy.route.split import Backend, FirstAvailable, Split
from linkerd_proxy.route.tls import TlsRoute

__all__ = [
    "Backend",
    "Exact",
    "FirstAvailable",
    "GrpcMatch",
    "GrpcRoute",
    "HttpRoute",
    "Inject",
    "Match",
    "Mirror",
    "OpaqueRoute",
    "Prefix",
    "Redirect",
    "Regex",
    "ReplacePrefix",
    "RequestHeaderModifier",
    "ResponseHeaderModifier",
    "Rewrite",
    "Route",
    "Rule",
    "Split",
    "TlsRoute",
]
