"""What Python can assemble a file can say, with the same names and the same defaults."""

import dataclasses
import re
import textwrap
from pathlib import Path

import pytest

import linkerd_proxy
from linkerd_proxy import (
    AccessLog,
    Authorization,
    Backoff,
    Balance,
    Breaker,
    Budget,
    Connect,
    Dns,
    Endpoint,
    EndpointsFile,
    GrpcMatch,
    Hedge,
    Inject,
    LeastRequest,
    Limit,
    Match,
    MeshPeer,
    Mirror,
    Network,
    Originate,
    Otlp,
    OtlpMetrics,
    P2c,
    ProxyProtocol,
    RateLimit,
    RateOverride,
    Redirect,
    RequestHeaderModifier,
    ResponseHeaderModifier,
    Retry,
    Rewrite,
    Ring,
    RoundRobin,
    ServerPolicy,
    Terminate,
    Timeouts,
    Trace,
)
from linkerd_proxy.discover.file import EndpointEntry
from linkerd_proxy.document.convert import convert, document_fields
from linkerd_proxy.document.load import parse
from linkerd_proxy.io.options import TcpOptions
from linkerd_proxy.mesh.config import backends, balancing, filters, listeners, matches, observing, peers, policies
from linkerd_proxy.mesh.config import profiles as profile_entries
from linkerd_proxy.mesh.config import resilience as says
from linkerd_proxy.mesh.config.backends import BackendEntry
from linkerd_proxy.mesh.config.document import ProxyDocument
from linkerd_proxy.mesh.config.listeners import ListenerEntry
from linkerd_proxy.mesh.config.words import TcpOptionsEntry
from linkerd_proxy.route.profile import ProfileRoute, ResponseClass, ServiceProfile, StatusBetween

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "configuration.rst"

COLLECTOR = {"stack", "authority", "path", "dice"}  # in the file an endpoint says the first three
PAIRS = [
    (AccessLog, observing.AccessLogEntry, set()),
    (Authorization, policies.AuthorizationEntry, {"authentication"}),  # identities and tls say it
    (Backoff, says.BackoffEntry, set()),
    (Balance, balancing.BalanceEntry, {"resolve", "replica", "breaker", "classify", "name", "dice"}),
    (Breaker, says.BreakerEntry, set()),
    (Budget, says.BudgetEntry, set()),
    (Connect, backends.BackendEntry, {"addresses", "timeout", "remedy"}),  # connect_timeout says the second
    (Dns, backends.DnsEntry, {"lookup", "dice"}),
    (Endpoint, EndpointEntry, set()),
    (EndpointsFile, backends.EndpointsFileEntry, set()),
    (GrpcMatch, matches.GrpcMatchEntry, set()),
    (Hedge, says.HedgeEntry, {"labels"}),
    (Inject, filters.FailureEntry, {"dice"}),
    (LeastRequest, balancing.LeastRequestEntry, set()),
    (Limit, says.LimitEntry, set()),
    (Match, matches.HttpMatchEntry, {"query"}),  # query_params in the Gateway API
    (MeshPeer, peers.MeshPeerEntry, set()),
    (Mirror, filters.MirrorEntry, {"backend", "dice"}),
    (Network, policies.NetworkEntry, {"net", "excepted"}),  # cidr and except in Linkerd's resources
    (Originate, backends.UpstreamTlsEntry, {"identity", "peer", "context", "alpn"}),
    (Otlp, observing.TraceEntry, COLLECTOR),
    (OtlpMetrics, observing.OtlpMetricsEntry, COLLECTOR),
    (P2c, balancing.P2cEntry, set()),
    (ProfileRoute, profile_entries.ProfileRouteEntry, set()),
    (ProxyProtocol, listeners.ProxyProtocolEntry, set()),
    (RateLimit, says.RateLimitEntry, set()),
    (RateOverride, says.RateOverrideEntry, set()),
    (Redirect, filters.RedirectEntry, {"host", "status"}),  # hostname and status_code in the Gateway API
    (RequestHeaderModifier, filters.RequestHeadersEntry, set()),
    (ResponseClass, profile_entries.ResponseClassEntry, set()),
    (ResponseHeaderModifier, filters.ResponseHeadersEntry, set()),
    (Retry, says.RetryEntry, {"labels", "dice"}),
    (Rewrite, filters.RewriteEntry, {"host"}),
    (Ring, balancing.RingEntry, set()),
    (RoundRobin, balancing.RoundRobinEntry, set()),
    (ServerPolicy, policies.PolicyEntry, {"name"}),
    (ServiceProfile, profile_entries.ProfileEntry, set()),
    (StatusBetween, profile_entries.StatusRangeEntry, set()),
    (TcpOptions, TcpOptionsEntry, set()),
    (Terminate, listeners.TlsEntry, {"identity", "alpn", "context"}),
    (Timeouts, says.TimeoutsEntry, set()),
    (Trace, observing.TraceEntry, {"export", "dice"}),
]


@pytest.mark.parametrize(("layer", "entry", "left_out"), PAIRS, ids=lambda one: getattr(one, "__name__", ""))
def test_a_file_says_every_option_by_its_name(layer, entry, left_out) -> None:
    options = {one.name for one in dataclasses.fields(layer) if one.init or layer is Connect}
    assert options - left_out == options & document_fields(entry).keys()
    assert left_out <= options


DEFAULTS = {
    (Terminate, "timeout"): None,  # what the listener says in detect_timeout
    (Originate, "host"): "",  # the endpoint's: that it is the ordinary web, the key says
    (Backoff, "jitter"): 0.5,
}


@pytest.mark.parametrize(("layer", "entry", "left_out"), PAIRS, ids=lambda one: getattr(one, "__name__", ""))
def test_defaults_are_the_same(layer, entry, left_out) -> None:
    known = document_fields(entry)
    for option in dataclasses.fields(layer):
        plain = isinstance(option.default, str | int | float | bool | None)
        if option.name in left_out or not plain or option.name not in known or layer in {OtlpMetrics, Otlp}:
            continue
        default = known[option.name][0].default
        if default is dataclasses.MISSING:  # needed there, or made anew each time
            continue
        assert default == DEFAULTS.get((layer, option.name), option.default), option.name


def test_the_page_says_of_every_public_name_which_key_it_is_or_why_there_is_none() -> None:
    page = PAGE.read_text()
    tables = page[page.index("What of Python it says") :]
    named = re.findall(r"``(\w+)(?:\([^`]*\))?``", tables)
    missing = set(linkerd_proxy.__all__) - set(named)
    assert missing == set()


def test_what_the_how_to_shows_can_be_read() -> None:
    text = (PAGE.parents[1] / "how-to" / "configure-by-file.rst").read_text()
    blocks = re.findall(r"\.\. code-block:: yaml\n\n((?:   .*\n|\n)+)", text)
    assert len(blocks) >= 5
    for block in blocks:
        told = parse(textwrap.dedent(block), "shown.yaml")
        assert isinstance(told.value, dict)
        for name, kind in (("listeners", ListenerEntry), ("backends", BackendEntry)):
            for entry in told.value[name].value.values() if name in told.value else ():
                convert(entry, kind, name)
        fields = document_fields(ProxyDocument)
        for name in told.value.keys() - {"listeners", "backends"}:
            convert(told.value[name], fields[name][1], name)
